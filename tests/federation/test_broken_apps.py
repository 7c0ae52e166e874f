"""Broken apps: each run ends with one line that says what is wrong, and the next run on the same federation works."""

import re
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import psutil
import pytest
from federation_processes import Fleet
from tiny_apps import make_app

pytestmark = pytest.mark.federation


class Broken(NamedTuple):
    """What is wrong with an app, the exit status of its run, and what the last line but the status says."""

    status: int
    words: str
    client: str = ""
    server: str = ""
    component: str = "client:app"
    timeout: int = 90


BEFORE = {  # found before anything is sent
    "syntax": Broken(2, "syntax/client.py, line 14: invalid syntax", client="def f(:"),
    "component": Broken(2, "the app has no module component.nowhere", component="nowhere:app"),
}
IN_THE_RUN = {
    "imports": Broken(1, "ModuleNotFoundError: No module named 'nowhere'", client="import nowhere"),
    "server": Broken(1, "failed with exception: No module named 'nowhere'", server="import nowhere"),
    "serverimport": Broken(1, "failed with exception: asked for", server="raise ValueError('asked for')"),
    "serverexit": Broken(
        1, "the ServerApp's process ended before", server="os = __import__('os')\nos._exit(3)"
    ),
    "serverraises": Broken(
        1,
        "failed with exception: asked for",
        server="app = ServerApp()\n@app.main()\ndef main(grid, context):\n    raise ValueError('asked for')",
    ),
    "raises": Broken(
        1, "ValueError: asked for", client="def work(number):\n    raise ValueError('asked for')"
    ),
    "exits": Broken(1, "ended with status 3 before it replied", client="def work(number):\n    os._exit(3)"),
    "hangs": Broken(
        1,
        "it did not reply for as long as the app waited",
        client="import time\ndef work(number):\n    time.sleep(3600)",
        timeout=10,
    ),
    "onehangs": Broken(
        3,
        "it did not reply for as long as the app waited",
        client="import time\ndef work(number):\n    time.sleep(3600 * number)",
        timeout=30,
    ),
    "memory": Broken(
        1,
        "MemoryError",
        client="""
        import resource

        def work(number):
            resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30))
            held = []
            while True:
                held.append(bytes(1 << 30))
        """,
    ),
    "killed": Broken(1, "was killed", client="def work(number):\n    os.kill(os.getpid(), 9)"),
    "prints": Broken(
        0,
        "",
        client="def work(number):\n    for _ in range(100):\n        print('x' * 1_000_000)",
    ),
    "children": Broken(
        0,
        "",
        client="""
        import subprocess, sys

        def work(number):
            for _ in range(3):
                subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
        """,
    ),
}


@pytest.fixture(scope="module")
def fleet_of_two(two_clients: Fleet) -> Fleet:
    """Two clients, and an app that works."""
    make_app(two_clients.folder, "good")
    return two_clients


def _children_of_apps(fleet: Fleet) -> list[psutil.Process]:
    """What the app ``children`` has started and is still there."""
    everyone = [each for name in fleet.processes if name != "train" for each in fleet.descendants(name)]
    found = []
    for each in everyone:
        with suppress(psutil.Error):
            if "time.sleep(600)" in " ".join(each.cmdline()):
                found.append(each)
    return found


@pytest.mark.parametrize("name", [*BEFORE, *IN_THE_RUN])
def test_a_broken_app_is_named_and_the_next_run_works(name: str, fleet_of_two: Fleet, tmp_path: Path) -> None:
    app = {**BEFORE, **IN_THE_RUN}[name]
    project = make_app(tmp_path, name, app.client, app.server, component=app.component, timeout=app.timeout)
    status, log = fleet_of_two.train_to_the_end("", project, 120)
    said = [line for line in log.splitlines() if app.words in line]
    assert status == app.status and said, log
    if status in (1, 2):
        assert any(name in line for line in said), f"the app is named where the cause is: {log}"
    if name in BEFORE:
        return
    assert not _children_of_apps(fleet_of_two)
    status, log = fleet_of_two.train_to_the_end("", fleet_of_two.folder / "good", 120)
    assert status == 0 and "round 0: 2 replies" in log, log


def test_a_folder_that_is_no_flower_app_is_named(fleet_of_two: Fleet, tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text("[project]\nname = 'other'\nversion = '1'\n")
    status, log = fleet_of_two.train_to_the_end("", tmp_path, 120)
    assert status == 2 and re.search(r"error: .*pyproject.toml .*\[tool.flwr.app\]", log), log
