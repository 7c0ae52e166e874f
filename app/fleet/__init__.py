"""Everything around Flower's processes: partition ids, keys, launch, warm workers."""
