"""From the log to supervision: corpora of a teacher's runs, and students trained on them."""
