"""Submitting a run."""
