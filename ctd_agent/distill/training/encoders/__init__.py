"""Encoders as students: a bi-encoder for either phase, a cross-encoder that selects."""
