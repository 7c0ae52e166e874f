"""Replies with what its process looks like; the module-level counter shows whether processes are shared."""

import os
import time
from pathlib import Path

from flwr.app import Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.supernode.runtime import run_clientapp

app = ClientApp()
imported_in = os.getpid()
handled = 0
print("the app is imported")


def learn() -> int:
    """Take a step of training on the CPU, and count the GPUs."""
    import torch

    torch.nn.Linear(3, 2)(torch.rand(4, 3)).sum().backward()
    return torch.cuda.device_count()


@app.train()
def train(message: Message, context: Context) -> Message:
    global handled
    handled += 1
    time.sleep(float(context.run_config["sleep"]))
    gpus = learn() if context.run_config["learn"] else -1
    number = message.content.config_records["config"]["number"]
    if number == context.run_config["fail-at"]:
        raise RuntimeError("this message fails, as it was asked to")
    if number == context.run_config["end-in-reply-at"]:
        run_clientapp.push_objects = lambda *_args, **_kwargs: os._exit(9)  # the reply is announced by then
    metrics = MetricRecord(
        {
            "pid": os.getpid(),
            "imported-in": imported_in,
            "handled": handled,
            "gpus": gpus,
            "descriptors": sum(1 for _ in Path("/proc/self/fd").iterdir()),
            "partition-id": int(context.node_config["partition-id"]),
        }
    )
    return Message(RecordDict({"metrics": metrics}), reply_to=message)
