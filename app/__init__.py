"""Bouquet: a federation of real machines for the Flower and PyTorch tutorial."""
