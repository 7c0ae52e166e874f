"""The report of a run: what its events tell, its model, and its data, in one page."""
