"""Grows trees on the rows of one client, on top of the forest that came."""

import numpy as np
import xgboost as xgb
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from boosting.task import load_data, load_model, parameters

app = ClientApp()


def _forest(message: Message) -> bytes:
    return message.content["arrays"]["0"].numpy().tobytes()


@app.train()
def train(message: Message, context: Context) -> Message:
    """Send the trees that this client has added, and nothing else."""
    rows, _ = load_data(int(context.node_config["partition-id"]))
    trees = int(context.run_config["local-trees"])
    if content := _forest(message):
        model = load_model(content, context.run_config)
        for _ in range(trees):
            model.update(rows, model.num_boosted_rounds())
        added = model[model.num_boosted_rounds() - trees : model.num_boosted_rounds()]
    else:
        added = xgb.train(parameters(context.run_config), rows, num_boost_round=trees)
    content = np.frombuffer(added.save_raw("json"), np.uint8)
    metrics = MetricRecord({"num-examples": rows.num_row()})
    return Message(RecordDict({"arrays": ArrayRecord([content]), "metrics": metrics}), reply_to=message)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """The area under the curve on the rows that were held out."""
    _, rows = load_data(int(context.node_config["partition-id"]))
    model = load_model(_forest(message), context.run_config)
    auc = float(model.eval_set([(rows, "held-out")]).rsplit(":", 1)[1])
    metrics = MetricRecord({"num-examples": rows.num_row(), "auc": auc})
    return Message(RecordDict({"metrics": metrics}), reply_to=message)
