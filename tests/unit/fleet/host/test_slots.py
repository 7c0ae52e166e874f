"""Training slots that the clients of a host share."""

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from app.fleet.host import slots
from app.fleet.host.slots import training_slot

ROOT = Path(__file__).resolve().parents[4]


def test_as_many_train_at_once_as_there_are_slots(tmp_path: Path) -> None:
    with training_slot(tmp_path, 1, patience_s=0.0), training_slot(tmp_path, 2, patience_s=0.0):
        import fcntl

        held = 0
        for number in range(2):
            with (tmp_path / f"slot-{number}.lock").open("a") as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    held += 1
        assert held == 2
        with training_slot(tmp_path, 2, patience_s=0.05):
            pass  # no slot came free: slower, never stuck
    with training_slot(None, 1), training_slot(tmp_path / "new" / "folder", 1):
        pass


@pytest.mark.parametrize("crash", [False, True])
def test_the_next_in_the_queue_trains_when_a_slot_comes_free(
    crash: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not crash:
        monkeypatch.setattr(slots, "CRASH_NOTICED_S", 600.0)  # only the pipe can wake it
    program = (
        "import sys, time; from pathlib import Path; from app.fleet.host.slots import training_slot\n"
        "with training_slot(Path(sys.argv[1]), 1): print('in', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT,
    ) as holder:  # fmt: skip
        assert holder.stdout is not None and holder.stdin is not None
        assert holder.stdout.readline() == b"in\n"
        trained: list[int] = []

        def train(number: int) -> None:
            with training_slot(tmp_path, 1):
                trained.append(number)

        waiting = [threading.Thread(target=train, args=(number,), daemon=True) for number in range(3)]
        for thread in waiting:
            thread.start()
        waiting[0].join(0.3)
        assert trained == []
        if crash:
            holder.kill()
        holder.stdin.close()
        for thread in waiting:
            thread.join(30)
        assert sorted(trained) == [0, 1, 2]
