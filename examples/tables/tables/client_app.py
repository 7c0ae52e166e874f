"""Trains and evaluates on the rows of one client."""

from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from sklearn.metrics import log_loss

from tables.task import CLASSES, get_arrays, load_data, new_model, set_arrays

app = ClientApp()


def _load(message: Message, context: Context):
    data = load_data(
        int(context.node_config["partition-id"]),
        int(context.node_config["num-partitions"]),
        str(context.run_config["table"]),
    )
    model = new_model(data[0].shape[1])
    set_arrays(model, message.content["arrays"].to_numpy_ndarrays())
    return model, data


@app.train()
def train(message: Message, context: Context) -> Message:
    """Some epochs of stochastic gradient descent."""
    model, (rows, classes, _, _) = _load(message, context)
    for _ in range(int(context.run_config["local-epochs"])):
        model.partial_fit(rows, classes, CLASSES)
    metrics = MetricRecord({"num-examples": len(rows), "train_accuracy": float(model.score(rows, classes))})
    content = RecordDict({"arrays": ArrayRecord(get_arrays(model)), "metrics": metrics})
    return Message(content, reply_to=message)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Loss and accuracy on the rows that were held out."""
    model, (_, _, rows, classes) = _load(message, context)
    metrics = MetricRecord(
        {
            "num-examples": len(rows),
            "eval_loss": float(log_loss(classes, model.predict_proba(rows), labels=CLASSES)),
            "eval_accuracy": float(model.score(rows, classes)),
        }
    )
    return Message(RecordDict({"metrics": metrics}), reply_to=message)
