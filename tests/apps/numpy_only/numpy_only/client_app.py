"""The ClientApp."""

from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from numpy_only.task import evaluate, load_data, train

app = ClientApp()


def _data(context: Context):
    return load_data(context.node_config["partition-id"], context.node_config["num-partitions"])


@app.train()
def train_here(msg: Message, context: Context) -> Message:
    """Train on this client's points."""
    points, labels, _, _ = _data(context)
    model = msg.content["arrays"].to_numpy_ndarrays()
    model = train(
        model, points, labels, context.run_config["local-epochs"], context.run_config["learning-rate"]
    )
    loss, _ = evaluate(model, points, labels)
    metrics = MetricRecord({"train_loss": loss, "num-examples": len(points)})
    return Message(RecordDict({"arrays": ArrayRecord(model), "metrics": metrics}), reply_to=msg)


@app.evaluate()
def evaluate_here(msg: Message, context: Context) -> Message:
    """Evaluate on the points that were held out."""
    _, _, points, labels = _data(context)
    loss, accuracy = evaluate(msg.content["arrays"].to_numpy_ndarrays(), points, labels)
    metrics = MetricRecord({"eval_loss": loss, "eval_accuracy": accuracy, "num-examples": len(points)})
    return Message(RecordDict({"metrics": metrics}), reply_to=msg)
