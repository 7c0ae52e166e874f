"""Logistic regression on a table."""
