"""Softmax regression in NumPy."""
