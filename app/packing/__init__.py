"""How a model and its messages travel: arrays in one record, objects in few calls."""
