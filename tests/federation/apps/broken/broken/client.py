"""Fails as asked."""

import os
import signal
import time

from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()


@app.train()
def train(message: Message, context: Context) -> Message:
    """Reply, or raise."""
    fault = str(context.run_config["fault"])
    if fault == "all-raise" or (fault == "one-raises" and context.node_config["partition-id"] == 0):
        raise ValueError("this client was asked to fail")
    if fault == "all-hang" or (fault == "one-hangs" and context.node_config["partition-id"] == 0):
        print(f"hangs as process {os.getpid()}.", flush=True)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        time.sleep(3600)
    return Message(RecordDict(), reply_to=message)
