"""The tutorial's CNN on CIFAR-10."""
