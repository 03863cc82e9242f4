"""A run, its score and its characterization as one HTML page."""
