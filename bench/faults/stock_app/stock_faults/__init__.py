"""The benchmark's small model in a plain Flower app."""
