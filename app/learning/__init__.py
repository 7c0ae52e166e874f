"""Model, data store, training loop and client: knows nothing of Flower's processes."""
