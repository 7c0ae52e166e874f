"""Two apps in turn on the same clients: both stay loaded, and each learns what it learns alone."""

import re
from pathlib import Path

import pytest
from federation_processes import Fleet
from tiny_apps import make_app

pytestmark = pytest.mark.federation

# A model of one number. What a round sends depends on the round before, and each client draws by a seed of its own.
CLIENT = """
    import numpy as np
    from flwr.app import ConfigRecord

    print("{name} is imported", flush=True)
    app = ClientApp()

    @app.train()
    def train(message, context):
        value, number = (message.content["config"][key] for key in ("value", "number"))
        drawn = np.random.default_rng([context.node_config["partition-id"], number]).normal({mean}, 1.0, 1000).mean()
        return Message(RecordDict({{"config": ConfigRecord({{"value": value + 0.5 * (float(drawn) - value)}})}}), reply_to=message)
"""
SERVER = """
    app = ServerApp()

    @app.main()
    def main(grid, context):
        value = 0.0
        for number in range(int(context.run_config["rounds"])):
            content = RecordDict({"config": ConfigRecord({"number": number, "value": value})})
            messages = [Message(content, node, "train") for node in sorted(grid.get_node_ids())]
            replies = sorted(reply.content["config"]["value"] for reply in grid.send_and_receive(messages))
            value = sum(replies) / len(replies)
            print(f"after {number}: {value!r} of {len(replies)}", flush=True)
"""


def _learned(log: str) -> list[str]:
    return re.findall(r"^after .*$", log, re.MULTILINE)


def test_two_apps_at_the_same_time_learn_what_they_learn_alone_and_are_loaded_once(
    two_clients: Fleet, tmp_path: Path
) -> None:
    apps = [
        make_app(tmp_path, name, CLIENT.format(name=name, mean=mean), SERVER)
        for name, mean in (("left", -3.0), ("right", 5.0))
    ]
    both = [two_clients.train("rounds=10", app, name=app.name) for app in apps]
    assert [train.wait(120) for train in both] == [0, 0], two_clients.log("supernode-0")[-3000:]
    for app in apps:
        for number in range(2):
            assert two_clients.log(f"supernode-{number}").count(f"{app.name} is imported") == 1
    for app in apps:
        status, alone = two_clients.train_to_the_end("rounds=10", app, 120)
        assert status == 0 and len(_learned(alone)) == 10, alone
        assert _learned(two_clients.log(app.name)) == _learned(alone)
