"""Flower's PyTorch quickstart, on CIFAR-10 or another data set in its form."""
