"""Gathers the clients' trees into one forest, and keeps it."""

from pathlib import Path

import numpy as np
from flwr.app import ArrayRecord, Context
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedXgbBagging

from boosting.task import load_model

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the rounds; the first forest has no trees."""
    result = FedXgbBagging().start(
        grid=grid,
        initial_arrays=ArrayRecord([np.frombuffer(b"", np.uint8)]),
        num_rounds=int(context.run_config["num-server-rounds"]),
    )
    for number, metrics in result.evaluate_metrics_clientapp.items():
        print(f"round {number}: auc {metrics['auc']:.4f}")
    forest = result.arrays["0"].numpy().tobytes()
    Path("forest.json").write_bytes(forest)
    print(f"{load_model(forest, context.run_config).num_boosted_rounds()} trees")
