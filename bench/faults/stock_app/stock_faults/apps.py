# mypy: ignore-errors
"""ServerApp and ClientApp in the form of Flower's quickstart, on the pictures that all contenders share."""

from pathlib import Path

import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

from bench.faults.work import training
from bench.workload import Examples, Net, train_epoch

client = ClientApp()
server = ServerApp()


@client.train()
def train(msg: Message, context: Context) -> Message:
    """Train the model on local data."""
    partition = int(context.node_config["partition-id"])
    server_round = int(msg.content.config_records["config"]["server-round"])
    with training(partition + 1, server_round):
        torch.set_num_threads(1)
        model = Net((3, 32, 32), 10)
        model.load_state_dict(msg.content["arrays"].to_torch_state_dict())
        directory = Path(str(context.run_config["store"])) / f"partition-{partition}"
        examples = Examples.load(directory, "train", torch.device("cpu"))
        for epoch in range(int(context.run_config["local-epochs"])):
            loss = train_epoch(model, examples, seed=1000 * server_round + 10 * epoch + partition)
    metrics = MetricRecord({"train_loss": loss, "num-examples": len(examples)})
    content = RecordDict({"arrays": ArrayRecord(model.state_dict()), "metrics": metrics})
    return Message(content=content, reply_to=msg)


@server.main()
def main(grid: Grid, context: Context) -> None:
    """FedAvg, whose minimum of two nodes is its own; the clients do not evaluate."""
    strategy = FedAvg(fraction_evaluate=0.0)
    strategy.start(
        grid=grid,
        initial_arrays=ArrayRecord(Net((3, 32, 32), 10).state_dict()),
        train_config=ConfigRecord({"lr": 0.001}),
        num_rounds=int(context.run_config["num-server-rounds"]),
    )
