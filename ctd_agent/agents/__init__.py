"""The two phases: models, prompts, the shortlister and the selector."""
