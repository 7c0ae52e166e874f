"""Replies with what its process looks like; the module-level counter shows whether processes are shared."""

import os
import time
from pathlib import Path

from flwr.app import Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()
imported_in = os.getpid()
handled = 0
print("the app is imported")


@app.train()
def train(message: Message, context: Context) -> Message:
    global handled
    handled += 1
    time.sleep(float(context.run_config["sleep"]))
    metrics = MetricRecord(
        {
            "pid": os.getpid(),
            "imported-in": imported_in,
            "handled": handled,
            "descriptors": sum(1 for _ in Path("/proc/self/fd").iterdir()),
            "partition-id": int(context.node_config["partition-id"]),
        }
    )
    return Message(RecordDict({"metrics": metrics}), reply_to=message)
