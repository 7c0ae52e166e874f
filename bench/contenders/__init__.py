"""The ways to do the same work, one module each."""
