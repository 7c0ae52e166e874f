"""The command ``bouquet``."""
