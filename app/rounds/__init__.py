"""What the server does in a run: strategy, rounds, screening, results."""
