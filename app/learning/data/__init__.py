"""The data store: reading a data set once, dividing it, writing arrays."""
