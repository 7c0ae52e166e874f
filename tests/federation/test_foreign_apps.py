"""Apps that are not Bouquet's: how a run of one ends is told, and nothing of it stays behind."""

import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import pytest
from federation_processes import ROOT, Fleet, bouquet, bouquet_until, leftovers

from app.fleet.runs.bundle import app_hash

BROKEN = ROOT / "tests" / "federation" / "apps" / "broken"
pytestmark = pytest.mark.federation


def _train(fleet: Fleet, config: str) -> tuple[int, str]:
    return fleet.train_to_the_end(config, BROKEN, 100)


@pytest.mark.parametrize(
    ("fault", "status", "words"),
    [
        ("", 0, "round 1: 2 replies"),
        ("all-raise", 1, "error: no client of tests/broken replied without an error: "),
        ("one-raises", 3, "failed: ValueError: this client was asked to fail"),
        ("server-exits", 1, "the ServerApp's process ended before the app was done"),
    ],
)
def test_the_status_of_a_run_says_whether_its_clients_replied(
    two_clients: Fleet, fault: str, status: int, words: str
) -> None:
    assert _train(two_clients, f"fault='{fault}'")[0] == status
    assert words in two_clients.log("train"), two_clients.log("train")


def test_a_serverapp_that_is_gone_is_told_before_its_heartbeats_are_missed(two_clients: Fleet) -> None:
    begun = time.monotonic()
    _train(two_clients, "fault='server-exits'")
    assert time.monotonic() - begun < 45, "Flower alone takes 69 s"


def test_replies_are_fetched_when_they_come(two_clients: Fleet) -> None:
    """Flower's grid sleeps 3 s after each look. What counts here is that no round does."""
    _, log = _train(two_clients, "fault='' rounds=5")
    seconds = [float(line.split()[-2]) for line in log.splitlines() if line.startswith("round ")]
    assert len(seconds) == 5 and min(seconds) < 2.9, log


def test_a_serverapp_that_ends_while_it_sends_keeps_no_client_from_the_next_run(two_clients: Fleet) -> None:
    """Its messages are announced, and their objects never come."""
    assert _train(two_clients, "fault='ends-in-push'")[0] == 1
    status, log = _train(two_clients, "fault=''")
    assert status == 0, log


def test_a_terminated_train_stops_its_run(two_clients: Fleet) -> None:
    (two_clients.folder / "train.log").unlink(missing_ok=True)
    train = two_clients.train("rounds=100000", BROKEN)
    two_clients.wait_for("train", "round 3")
    train.send_signal(signal.SIGTERM)
    assert train.wait(30) == 130
    status, log = _train(two_clients, "rounds=1")
    assert status == 0, log


def test_a_killed_launcher_leaves_no_process_and_no_folder(tmp_path: Path) -> None:
    """The app has started a process in a session of its own, which no group and no parent would find."""
    app = tmp_path / "broken"
    shutil.copytree(BROKEN, app)
    before = app_hash(app)
    # Not below tmp_path, which is too long for sockets.
    with tempfile.TemporaryDirectory(prefix="bouquet-test-") as temporary:
        process = bouquet_until(
            "round 3", "up", "--app", str(app), "--clients", "2", "--results", str(tmp_path / "results"),
            "--config", "fault='children' rounds=100000",
            environment={"TMPDIR": temporary},
        )  # fmt: skip
        process.kill()
        process.wait()
        deadline = time.monotonic() + 30
        while (left := leftovers(temporary)) or list(Path(temporary).glob("bouquet-*")):
            assert time.monotonic() < deadline, (left, list(Path(temporary).iterdir()))
            time.sleep(0.2)
    assert app_hash(app) == before


def test_an_app_without_data_gets_none_and_its_folder_stays_as_it_was(tmp_path: Path) -> None:
    app = tmp_path / "broken"
    shutil.copytree(BROKEN, app)
    files = sorted(app.rglob("*"))
    done = bouquet(
        "up",
        "--clients",
        "2",
        "--config",
        "fault='children'",
        "--results",
        str(tmp_path / "results"),
        cwd=app,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 nodes" in done.stdout, "both clients are in before the app is asked to begin"
    assert sorted(app.rglob("*")) == files
    assert not leftovers(str(tmp_path)), "what the app started ends with the run"


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("broken/client.py", "def train(:\n", "broken/client.py, line 1: invalid syntax"),
        ("broken/client.py", "application = 1\n", "clientapp = 'broken.client:app' in pyproject.toml"),
    ],
)
def test_an_app_that_cannot_run_is_told_before_anything_starts(
    tmp_path: Path, file: str, content: str, words: str
) -> None:
    app = tmp_path / "broken"
    shutil.copytree(BROKEN, app)
    (app / file).write_text(content)
    done: subprocess.CompletedProcess[str] = bouquet(
        "up", "--app", str(app), "--clients", "2", "--results", str(tmp_path / "results")
    )
    assert done.returncode == 2 and words in done.stderr, done.stdout + done.stderr
    assert not (tmp_path / "results").exists()
