"""Model, training loop and client. This room does not know Flower's processes."""
