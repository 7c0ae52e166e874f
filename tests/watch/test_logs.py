"""`bouquet logs` shows what clients share: their own lines and those of their apps."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from faulty_federation import Federation
from federation_processes import bouquet, bouquet_until, until
from tiny_apps import make_app

pytestmark = pytest.mark.federation

# It looks like a line of the terminal's own, and is kept as plain text.
SPEAKS = """
    def work(number):
        print(f"the app of client {number} speaks \\x1b[32m\\x1b[2J", flush=True)
"""


@pytest.fixture
def two(tmp_path: Path, small_store: Path) -> Iterator[Federation]:
    """Client 0 shares its log, client 1 does not."""
    with Federation(tmp_path, small_store, num_clients=2).taken_down() as started:
        started.make_identities()
        started.superlink()
        started.enroll()
        started.supernode(0, BOUQUET_SHARE_LOGS="on")
        started.supernode(1)
        yield started


def test_a_client_that_shares_its_log_is_shown_and_another_is_not(two: Federation, tmp_path: Path) -> None:
    state = str(tmp_path / "state")
    two.wait_for("supernode-0", "SuperNode ID:")
    two.wait_for("supernode-1", "SuperNode ID:")
    kept = tmp_path / "state" / "client-logs" / "client-0.log"
    until(kept.exists, 60, lambda: two.log("superlink"))
    follows = bouquet_until("SuperNode ID:", "logs", "client-0", "--state", state, "--follow")
    app = make_app(tmp_path / "apps", "speaks", SPEAKS)
    assert two.train("", app).wait(120) == 0, two.log("train")
    assert follows.stdout is not None
    line = next(line for line in follows.stdout if "the app of client 0 speaks" in line)
    assert "\x1b" not in line and line.endswith("speaks \\x1b[2J\n"), line
    follows.send_signal(signal.SIGINT)
    follows.communicate(timeout=30)
    assert "the app of client 0 speaks" in two.log("supernode-0"), "its own log has it too"
    refused = bouquet("logs", "client-1", "--state", state)
    assert refused.returncode == 2 and "clients with a log: client-0" in refused.stderr
    last = bouquet("logs", "client-0", "--state", state, "--lines", "1")
    assert last.returncode == 0 and len(last.stdout.splitlines()) == 1
    assert (tmp_path / "state" / "client-logs").stat().st_mode & 0o077 == 0


def test_the_last_words_of_a_client_arrive(two: Federation, tmp_path: Path) -> None:
    two.wait_for("supernode-0", "SuperNode ID:")
    two.stop_one("supernode-0")
    shown = bouquet("logs", "client-0", "--state", str(tmp_path / "state")).stdout.splitlines()
    own = [line for line in two.log("supernode-0").splitlines() if line.strip()]
    assert len(shown) >= len(own) - 1, (shown, own)
