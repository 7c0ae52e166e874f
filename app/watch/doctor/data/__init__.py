"""Rules about what is learned from."""
