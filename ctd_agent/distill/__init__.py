"""From the log to measurement and supervision."""
