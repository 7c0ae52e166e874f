"""Apps that others wrote, each as it is: whether it runs on Bouquet, and its seconds per round beside stock Flower."""
