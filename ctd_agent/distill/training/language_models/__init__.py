"""Language models as students, for either phase or both."""
