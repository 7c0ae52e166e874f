"""`bouquet status` beside a running SuperLink."""

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from federation_processes import bouquet, bouquet_until
from identity_site import Site
from terminal import Terminal

pytestmark = pytest.mark.federation


@pytest.fixture
def options(federation: Site, tmp_path: Path) -> Iterator[list[str]]:
    """What the command is given; the clients that a test starts end with it."""
    ca = str(federation.certificates / "ca.crt")
    address = f"127.0.0.1:{federation.control_port}"
    yield ["status", "--control-address", address, "--ca", ca, "--results", str(tmp_path)]
    federation.forget_clients()


def test_a_member_is_shown_by_name_with_what_the_latest_run_tells_of_it(
    options: list[str], tmp_path: Path
) -> None:
    [member] = json.loads(bouquet(*options, "--json").stdout)["members"]
    assert (member["name"], member["failures"], member["partition_id"]) == ("hospital-a", 0, None)
    (tmp_path / "latest").mkdir()
    client = {"node_id": member["node_id"], "partition_id": 4, "name": "hospital-a"}
    reply = {"event": "reply_accepted", "round": 3, "client": client, "seconds": 2.5, "device": "cuda"}
    (tmp_path / "latest" / "events.jsonl").write_text(f'{json.dumps(reply)}\n{{"cut sho')
    done = bouquet(*options)
    assert done.returncode == 0 and done.stdout.startswith("run latest: running, round 0 of ?\n"), done
    assert done.stdout.splitlines()[-1].split()[-5:] == ["4", "cuda", "3", "2.5", "0"]


def test_watching_tells_when_a_client_comes_online_and_ends_with_ctrl_c(
    federation: Site, options: list[str]
) -> None:
    watching = bouquet_until("hospital-a  ", *options, "--watch")
    federation.client(key=federation.folder / "node.key").wait_for("SuperNode ID:")
    assert watching.stdout is not None
    seen = next(line for line in watching.stdout if line.startswith("hospital-a  online"))
    assert "\x1b" not in seen
    watching.send_signal(signal.SIGINT)
    watching.communicate(timeout=30)
    assert watching.returncode == 130


def test_a_superlink_that_is_down_is_named(options: list[str], tmp_path: Path) -> None:
    done = bouquet("status", "--control-address", "127.0.0.1:1", "--results", str(tmp_path))
    assert (
        done.returncode == 2 and "the SuperLink's Control API at 127.0.0.1:1 does not answer" in done.stderr
    )


def test_a_terminal_shows_it_in_place(federation: Site, options: list[str]) -> None:
    with Terminal(*options, "--watch") as terminal:
        terminal.until(lambda text: "hospital-a" in text)
        federation.client(key=federation.folder / "node.key").wait_for("SuperNode ID:")
        screen = terminal.until(lambda text: "hospital-a  online" in text)
        assert screen.count("hospital-a") == 1 and "NAME" in screen, "not one table below the other"
        terminal.process.send_signal(signal.SIGINT)
        assert terminal.end() == 130 and terminal.shows_cursor
