# mypy: ignore-errors
"""The quickstart's ServerApp. The line it prints per round is what the benchmark times."""

import json
import time

import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, MetricRecord
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

from stock_flower.task import build_model, load_centralized_dataset
from stock_flower.task import test as test_fn

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run FedAvg for the configured number of rounds."""
    config = context.run_config
    num_clients = int(config["num-clients"])
    fraction_evaluate = float(config["fraction-evaluate"])
    global_model = build_model(str(config["model"]))

    strategy = FedAvg(
        fraction_train=1.0,
        fraction_evaluate=fraction_evaluate,
        min_train_nodes=num_clients,
        min_evaluate_nodes=max(1, round(num_clients * fraction_evaluate)),
        min_available_nodes=num_clients,
    )

    def global_evaluate(server_round: int, arrays: ArrayRecord) -> MetricRecord:
        """Evaluate the global model on the test split."""
        model = build_model(str(config["model"]))
        model.load_state_dict(arrays.to_torch_state_dict())
        device = torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
        test_dataloader = load_centralized_dataset(str(config["dataset"]))
        loss, accuracy = test_fn(model, test_dataloader, device)
        report = {"round": server_round, "time": time.time(), "accuracy": accuracy, "loss": loss}
        print(f"BENCH {json.dumps(report)}", flush=True)
        return MetricRecord({"accuracy": accuracy, "loss": loss})

    strategy.start(
        grid=grid,
        initial_arrays=ArrayRecord(global_model.state_dict()),
        train_config=ConfigRecord({"lr": float(config["learning-rate"])}),
        num_rounds=int(config["num-server-rounds"]),
        evaluate_fn=global_evaluate,
    )
