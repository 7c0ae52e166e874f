"""The models of runs, to use: loaded, asked about pictures, and written for other programs."""
