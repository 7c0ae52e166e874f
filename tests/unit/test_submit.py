"""What is submitted fits the number of clients, and a mistake is said before anything starts."""

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from app.errors import UserError
from app.fleet import cores
from app.fleet.cores import available_cores, sleep_soon, threads_per_client, training_slot
from app.fleet.processes import Processes
from app.fleet.submit import run_config_for

ROOT = Path(__file__).resolve().parents[2]
COUNTING = ROOT / "tests" / "federation" / "apps" / "counting"


def test_the_tutorials_minima_are_scaled_to_the_number_of_clients() -> None:
    assert run_config_for(ROOT, 10, None, "") == {
        "min-available-nodes": 10,
        "min-train-nodes": 10,
        "min-evaluate-nodes": 5,
    }
    assert run_config_for(ROOT, 3, 7, "")["min-evaluate-nodes"] == 1
    assert run_config_for(ROOT, 1, 7, "") == {
        "min-available-nodes": 1,
        "min-train-nodes": 1,
        "min-evaluate-nodes": 1,
        "num-server-rounds": 7,
    }


def test_a_fraction_that_was_asked_for_is_not_overruled_by_a_derived_minimum() -> None:
    values = run_config_for(ROOT, 10, None, "fraction-train=0.3")
    assert values["min-train-nodes"] == 3 and values["min-available-nodes"] == 10
    assert run_config_for(ROOT, 10, None, "fraction-train=0.3 min-train-nodes=4")["min-train-nodes"] == 4


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ("batch-sise=3", "did you mean 'batch-size'"),
        ("batch-size=0", "at least 1"),
        ("min-train-nodes=11", "raise NUM_CLIENTS"),
        ("strategy='fedsgd'", "fedavg"),
        ("batch-size", "key=value"),
    ],
)
def test_a_mistake_in_the_config_names_the_key(config: str, words: str) -> None:
    with pytest.raises(UserError, match=words) as caught:
        run_config_for(ROOT, 10, None, config)
    assert "\n" not in str(caught.value)


def test_another_app_gets_only_the_keys_it_has() -> None:
    assert run_config_for(COUNTING, 10, 5, "messages=2") == {"messages": 2}
    with pytest.raises(UserError, match="its keys are fail-at, learn, messages, nodes, sleep"):
        run_config_for(COUNTING, 10, None, "message=2")


def test_an_app_that_is_called_as_ours_is_still_another(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text(
        '[project]\nname = "other"\n[tool.flwr.app]\npublisher = "someone"\n'
        '[tool.flwr.app.components]\nserverapp = "app.server_app:app"\n'
        "[tool.flwr.app.config]\nlr = 0.1\n"
    )
    assert run_config_for(tmp_path, 2, 3, "lr=0.2") == {"lr": 0.2}


def test_threads_that_wait_sleep_soon_unless_it_is_said_how_they_wait() -> None:
    environment = {"PATH": "/bin"}
    sleep_soon(environment)
    assert environment == {"PATH": "/bin", "GOMP_SPINCOUNT": "1000"}
    for own in ({"OMP_WAIT_POLICY": "active"}, {"GOMP_SPINCOUNT": "7"}):
        kept = dict(own)
        sleep_soon(kept)
        assert kept == own


@pytest.mark.parametrize(
    ("program", "words"),
    [
        ("print('INFO :'); print('\\x1b[92mINFO \\x1b[0m: started'); raise SystemExit(3)", "ended with status 3: INFO : started"),
        ("import sys; print('error: the way out'); print('noise'); sys.exit(2)", "ended with status 2: error: the way out"),
        ("import os; print('here', flush=True); os.kill(os.getpid(), 9)", "was ended by SIGKILL: here"),
    ],
)  # fmt: skip
def test_a_process_that_has_ended_is_named_with_its_last_words(
    program: str, words: str, tmp_path: Path
) -> None:
    processes = Processes(tmp_path / "logs")
    processes.start("supernode-1", [sys.executable, "-c", program], {}).wait(20)
    with pytest.raises(UserError) as error:
        processes.require_running()
    assert str(error.value) == f"supernode-1 {words}"


def test_logs_that_cannot_be_written_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"file/logs cannot be written .*--results"):
        Processes(tmp_path / "file" / "logs").start("superlink", ["true"], {})


def test_a_folder_without_an_app_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no pyproject\.toml"):
        run_config_for(tmp_path, 10, None, "")
    (tmp_path / "pyproject.toml").write_text("[project]\nname='x'\n")
    with pytest.raises(UserError, match="not that of a Flower app"):
        run_config_for(tmp_path, 10, None, "")


def test_clients_share_the_cores_and_one_setting_overrides() -> None:
    cores = available_cores()
    assert threads_per_client({}, local_replicas=1) == cores
    assert threads_per_client({}, local_replicas=10 * cores) == 1
    assert threads_per_client({"BOUQUET_THREADS": "3"}, local_replicas=10) == 3
    for value in ("0", "two", "-1"):
        with pytest.raises(UserError, match="BOUQUET_THREADS"):
            threads_per_client({"BOUQUET_THREADS": value}, 1)


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
        monkeypatch.setattr(cores, "CRASH_NOTICED_S", 600.0)  # only the bell can wake it
    program = (
        "import sys, time; from pathlib import Path; from app.fleet.cores import training_slot\n"
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
