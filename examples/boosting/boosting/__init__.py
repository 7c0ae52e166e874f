"""Gradient boosting by bagging."""
