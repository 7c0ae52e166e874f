"""Flower apps of a few lines, written where a test wants them."""

import textwrap
from pathlib import Path

SERVER = """
    from flwr.app import ConfigRecord, Message, RecordDict
    from flwr.serverapp import ServerApp

    app = ServerApp()

    @app.main()
    def main(grid, context):
        for number in range(int(context.run_config["rounds"])):
            content = RecordDict({"config": ConfigRecord({"number": number})})
            messages = [Message(content, node, "train") for node in grid.get_node_ids()]
            replies = list(grid.send_and_receive(messages, timeout=float(context.run_config["timeout"])))
            print(f"round {number}: {len([r for r in replies if not r.has_error()])} replies", flush=True)
"""
CLIENT = """
    import os
    from flwr.app import Message, RecordDict
    from flwr.clientapp import ClientApp

    app = ClientApp()

    @app.train()
    def train(message, context):
        work(context.node_config["partition-id"])
        return Message(RecordDict(), reply_to=message)
"""


def make_app(
    folder: Path,
    name: str,
    client: str = "",
    server: str = "",
    *,
    component: str = "client:app",
    timeout: int = 90,
) -> Path:
    """An app whose clients call ``work(partition_id)``; returns its folder.

    Args:
        folder: where it is put.
        name: its name, and that of its package.
        client: what stands at the end of its ClientApp's module, in which ``work`` may be replaced.
        server: the same for its ServerApp.
        component: where its ClientApp is, within its package.
        timeout: seconds for which its ServerApp waits for replies.
    """
    package = folder / name / name
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "client.py").write_text(
        "def work(number):\n    pass\n" + textwrap.dedent(CLIENT) + textwrap.dedent(client)
    )
    (package / "server.py").write_text(textwrap.dedent(SERVER) + textwrap.dedent(server))
    (package.parent / "pyproject.toml").write_text(
        textwrap.dedent(f"""
        [project]
        name = "{name}"
        version = "1.0.0"
        description = "Made by a test"
        dependencies = []

        [tool.flwr.app]
        publisher = "tests"

        [tool.flwr.app.components]
        serverapp = "{name}.server:app"
        clientapp = "{name}.{component}"

        [tool.flwr.app.config]
        rounds = 1
        timeout = {timeout}
        """)
    )
    return package.parent
