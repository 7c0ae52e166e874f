# mypy: ignore-errors
"""The quickstart's ClientApp."""

from typing import cast

import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from stock_flower.task import Loader, build_model, load_data
from stock_flower.task import test as test_fn
from stock_flower.task import train as train_fn

app = ClientApp()


def _data(context: Context) -> tuple[Loader, Loader]:
    return load_data(
        int(context.node_config["partition-id"]),
        int(context.node_config["num-partitions"]),
        str(context.run_config["dataset"]),
        int(context.run_config["batch-size"]),
    )


@app.train()
def train(msg: Message, context: Context) -> Message:
    """Train the model on local data."""
    model = build_model(str(context.run_config["model"]))
    arrays = cast(ArrayRecord, msg.content["arrays"])
    model.load_state_dict(arrays.to_torch_state_dict())
    device = torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    model.to(device)

    trainloader, _ = _data(context)
    config = msg.content.config_records["config"]
    train_loss = train_fn(
        model, trainloader, int(context.run_config["local-epochs"]), float(cast(float, config["lr"])), device
    )

    model_record = ArrayRecord(model.state_dict())
    metrics = {"train_loss": train_loss, "num-examples": len(trainloader.dataset)}
    content = RecordDict({"arrays": model_record, "metrics": MetricRecord(metrics)})
    return Message(content=content, reply_to=msg)


@app.evaluate()
def evaluate(msg: Message, context: Context) -> Message:
    """Evaluate the model on local data."""
    model = build_model(str(context.run_config["model"]))
    arrays = cast(ArrayRecord, msg.content["arrays"])
    model.load_state_dict(arrays.to_torch_state_dict())
    device = torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    model.to(device)

    _, valloader = _data(context)
    eval_loss, eval_acc = test_fn(model, valloader, device)

    metrics = {
        "eval_loss": eval_loss,
        "eval_acc": eval_acc,
        "num-examples": len(valloader.dataset),
    }
    return Message(content=RecordDict({"metrics": MetricRecord(metrics)}), reply_to=msg)
