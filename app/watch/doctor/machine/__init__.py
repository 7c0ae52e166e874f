"""Rules about the machine: its settings, disk, memory, folders, and the Flower that is installed."""
