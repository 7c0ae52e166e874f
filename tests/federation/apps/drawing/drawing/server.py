"""Sends zeros to every node, again and again, and prints what each reply drew and the noise on its zeros."""

import json
import time

import numpy as np
from flwr.app import Array, ArrayRecord, Context, Message, RecordDict
from flwr.serverapp import Grid, ServerApp

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    while len(nodes := list(grid.get_node_ids())) < context.run_config["nodes"]:
        time.sleep(0.1)
    for number in range(int(context.run_config["messages"])):
        zeros = RecordDict({"arrays": ArrayRecord({"zeros": Array(np.zeros(4))})})
        waiting = set(grid.push_messages([Message(zeros, node, "train") for node in nodes]))
        while waiting:
            for reply in grid.pull_messages(waiting):
                waiting.discard(reply.metadata.reply_to_message_id)
                noise = float(reply.content.array_records["arrays"]["zeros"].numpy()[0])
                drawn = {**reply.content.metric_records["metrics"], "local-dp-noise": noise}
                print("reply " + json.dumps({"number": number, **drawn}), flush=True)
            time.sleep(0.02)
