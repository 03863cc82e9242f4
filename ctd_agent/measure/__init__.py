"""Runs scored and taken apart: metrics, evaluation, characterization, the report."""
