"""Asks every node once a turn, as Bouquet's rounds do, and prints each turn as a JSON line."""

import json

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.serverapp import Grid, ServerApp

from app.packing.transport import forget
from app.rounds.enough import quorum
from app.rounds.phases import Exchange, wait_for_nodes

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Take turns until the run is stopped or a turn fails."""
    config = context.run_config
    nodes = wait_for_nodes(grid, int(config["nodes"]), 300.0, lambda _: None)
    for turn in range(int(config["turns"])):
        # Whoever has seen one turn knows the objects of the next.
        content = RecordDict({"config": ConfigRecord({"turn": turn})})
        messages = [Message(content, node, "train") for node in nodes]
        exchange = Exchange(grid)
        exchange.send(messages)
        exchange.wait(quorum(len(nodes), float(config["seconds"])))
        forget(grid, exchange.open)
        answers = {
            str(reply.metadata.src_node_id): reply.error.reason
            if reply.has_error()
            else {name: dict(record) for name, record in reply.content.config_records.items()}
            for reply in exchange.replies.values()
        }
        line = {"turn": turn, "answers": answers, "missing": [str(node) for node in exchange.missing]}
        print("turn " + json.dumps(line), flush=True)
