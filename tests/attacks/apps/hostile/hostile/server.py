"""Sends one message for each attack and prints the replies as JSON lines."""

import json
import time
from typing import Any

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.serverapp import Grid, ServerApp

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    while not (nodes := list(grid.get_node_ids())):
        time.sleep(0.1)
    for attack in str(context.run_config["attacks"]).split(","):
        content = RecordDict({"config": ConfigRecord({"attack": attack})})
        waiting = set(grid.push_messages([Message(content, nodes[0], "train")]))
        while waiting:
            for reply in grid.pull_messages(waiting):
                waiting.discard(reply.metadata.reply_to_message_id)
                line: dict[str, Any] = {"attack": attack}
                if reply.has_error():
                    line["error"] = reply.error.reason
                else:
                    line |= reply.content.metric_records["metrics"]
                print("reply " + json.dumps(line), flush=True)
            time.sleep(0.02)
