"""Sends one message after another to every node and prints the replies as JSON lines."""

import json
import time

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.serverapp import Grid, ServerApp

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    while len(nodes := list(grid.get_node_ids())) < context.run_config["nodes"]:
        time.sleep(0.1)
    for number in range(int(context.run_config["messages"])):
        waiting = set(
            grid.push_messages(
                [
                    Message(RecordDict({"config": ConfigRecord({"number": number})}), node, "train")
                    for node in nodes
                ]
            )
        )
        while waiting:
            for reply in grid.pull_messages(waiting):
                waiting.discard(reply.metadata.reply_to_message_id)
                if reply.has_error():
                    line = {"number": number, "error": reply.error.reason}
                else:
                    line = {"number": number, **reply.content.metric_records["metrics"]}
                print("reply " + json.dumps(line), flush=True)
            time.sleep(0.02)
