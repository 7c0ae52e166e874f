"""Apps that cannot be forked after their import run as in stock Flower: each message loads them for itself."""

from pathlib import Path

import pytest
from federation_processes import Fleet
from tiny_apps import make_app

pytestmark = pytest.mark.federation

# Each works in a process that has imported it, and waits for ever in a fork of it.
APPS = {
    "openmp": (
        """
        import torch

        torch.set_num_threads(2)
        torch.rand(2000, 2000).sum()

        def work(number):
            torch.set_num_threads(2)
            torch.rand(2000, 2000).sum()
        """,
        "threads behind: 1 of a library, such as OpenMP",
    ),
    "helper": (
        """
        import queue, threading

        jobs, done = queue.Queue(), queue.Queue()

        def help():
            while True:
                done.put(jobs.get())

        threading.Thread(target=help, daemon=True, name="helper").start()

        def work(number):
            jobs.put(number)
            done.get()
        """,
        "threads behind: helper",
    ),
}


def test_an_app_with_threads_is_loaded_for_each_message_and_the_reason_is_said_once(
    fleet: Fleet, tmp_path: Path
) -> None:
    fleet.superlink()
    fleet.supernode(0)
    fleet.wait_for("supernode-0", "SuperNode ID")
    for name, (client, reason) in APPS.items():
        app = make_app(tmp_path / "apps", name, client)
        status, log = fleet.train_to_the_end("rounds=3", app, 150)
        assert status == 0 and log.count(": 1 replies") == 3, fleet.log("supernode-0")[-3000:]
        said = [line for line in fleet.log("supernode-0").splitlines() if reason in line]
        assert len(said) == 1 and f"tests/{name} loads the app anew" in said[0], said
