"""Rules about the container engine."""
