"""Sends one round of messages after another, in Flower's own way."""

import os
import subprocess
import sys
import time
from pathlib import Path

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.serverapp import Grid, ServerApp
from flwr.superlink.grid import http_grid

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Ask every node that is there, twice."""
    nodes = sorted(grid.get_node_ids())
    print(f"{len(nodes)} nodes", flush=True)
    fault = str(context.run_config["fault"])
    if fault == "server-exits":
        os._exit(3)
    if fault == "children":
        subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
    if fault == "ends-in-push":
        http_grid.push_objects = lambda *_args, **_kwargs: os._exit(4)  # the messages are announced by then
    for number in range(int(context.run_config["rounds"])):
        begun = time.monotonic()
        config = RecordDict({"config": ConfigRecord({"number": number})})
        messages = [Message(config, node, "train") for node in nodes]
        if leave_when := context.run_config["leave-when"]:
            grid.push_messages(messages)
            while not Path(leave_when).exists():
                time.sleep(0.1)
            return
        replies = list(grid.send_and_receive(messages))
        print(f"round {number}: {len(replies)} replies, {time.monotonic() - begun:.2f} s", flush=True)
