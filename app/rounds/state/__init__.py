"""Where a run stands: one object, its checkpoints, and the choice of the run that goes on."""
