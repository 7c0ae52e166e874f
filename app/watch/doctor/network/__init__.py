"""Rules about the way to the SuperLink."""
