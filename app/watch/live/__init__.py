"""One view of a run that is under way: what it shows, how it is drawn, and how it follows the run's events."""
