"""From the log to training data: corpora of a teacher's runs, and students trained on them."""
