"""What a client finds on its host: an id, cores, GPUs."""
