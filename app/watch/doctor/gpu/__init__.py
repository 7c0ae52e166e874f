"""Rules about the GPUs."""
