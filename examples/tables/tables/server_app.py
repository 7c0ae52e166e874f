"""Averages the clients' models, and keeps the last one."""

import numpy as np
from flwr.app import ArrayRecord, Context
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

from tables.task import get_arrays, load_table, new_model

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the rounds."""
    features = load_table(str(context.run_config["table"]))[0].shape[1]
    result = FedAvg().start(
        grid=grid,
        initial_arrays=ArrayRecord(get_arrays(new_model(features))),
        num_rounds=int(context.run_config["num-server-rounds"]),
    )
    for number, metrics in result.evaluate_metrics_clientapp.items():
        print(f"round {number}: accuracy {metrics['eval_accuracy']:.4f}, loss {metrics['eval_loss']:.6f}")
    coefficients, intercept = result.arrays.to_numpy_ndarrays()
    np.savez("model.npz", coefficients=coefficients, intercept=intercept)
