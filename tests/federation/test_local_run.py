"""``bouquet up``: a real SuperLink and real SuperNodes train one model, and nothing stays behind."""

import csv
import json
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import psutil
import pytest
from federation_processes import bouquet, bouquet_until, leftovers

from app.fleet.local import guard
from app.fleet.warm.parent import PROCESS_NAME

pytestmark = pytest.mark.federation


def _up(store: Path, folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return bouquet(
        "up", "--data", str(store), "--clients", "3", "--results", str(folder / "results"), *arguments,
        environment={"HOME": str(folder / "home")},
    )  # fmt: skip


def test_three_clients_learn_in_two_rounds_and_leave_their_results(small_store: Path, tmp_path: Path) -> None:
    done = _up(small_store, tmp_path, "--rounds", "2", "--config", "local-epochs=6 fraction-evaluate=1.0")
    assert done.returncode == 0, done.stdout + done.stderr
    latest = tmp_path / "results" / "latest"
    summary = json.loads((latest / "summary.json").read_text())
    assert (summary["num_clients"], summary["rounds"], summary["mode"]) == (3, 2, "local")
    first, last = summary["accuracy_per_round"]
    assert 0.15 < first < last, "the model learns"
    assert summary["accuracy"] == last and len(summary["round_s"]) == 2 and summary["failures"] == []
    with (latest / "history.csv").open() as file:
        rows = list(csv.DictReader(file))
    trained = [row for row in rows if row["phase"] == "train"]
    assert [(row["round"], row["partition_id"]) for row in trained] == [(r, p) for r in "12" for p in "012"]
    assert len({row["node_id"] for row in trained}) == 3, "each client is a SuperNode of its own"
    assert {row["num_examples"] for row in trained} == {"400"}
    # One model each way: 62,006 float32 numbers, and at most 5 % around them.
    assert 248_024 <= int(trained[0]["bytes_up"]) <= 1.05 * 248_024
    assert summary["bytes_per_client_and_round"]["up"] <= 1.05 * 248_024

    from safetensors.numpy import load_file

    model = load_file(latest / "model.safetensors")
    assert sum(array.size for array in model.values()) == 62_006
    assert "round 2/2" in done.stdout and "Traceback" not in done.stdout + done.stderr
    assert not (tmp_path / "home" / ".flwr").exists(), "Flower's own home is the person's"


def test_the_same_seed_gives_the_same_model_bit_for_bit(small_store: Path, tmp_path: Path) -> None:
    from safetensors.numpy import load_file

    models = []
    for name in ("one", "two"):
        assert _up(small_store, tmp_path / name, "--rounds", "1").returncode == 0
        models.append(load_file(tmp_path / name / "results" / "latest" / "model.safetensors"))
    assert all((models[0][key] == models[1][key]).all() for key in models[0])


def test_a_strategy_that_computes_in_double_precision_keeps_its_clients(
    small_store: Path, tmp_path: Path
) -> None:
    """Flower's FedAdam returns float64, which no client's reply would match in the next round."""
    done = _up(small_store, tmp_path, "--rounds", "2", "--config", "strategy='fedadam'")
    assert done.returncode == 0, done.stdout + done.stderr
    summary = json.loads((tmp_path / "results" / "latest" / "summary.json").read_text())
    assert summary["failures"] == [] and summary["rounds"] == 2
    assert "(3 trained, 1 evaluated)" in done.stdout.splitlines()[-2]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_leaves_no_process_behind(
    number: signal.Signals, small_store: Path, tmp_path: Path
) -> None:
    mark = str(tmp_path / "results")
    process = bouquet_until(
        "round 1/", "up", "--data", str(small_store), "--clients", "3", "--results", mark, "--rounds", "500"
    )
    try:
        process.send_signal(number)
        assert process.wait(60) == 130
    finally:
        process.kill()
    deadline = time.monotonic() + 10
    while (left := leftovers(mark) + leftovers(str(small_store))) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not left


def ignores_sigterm(pid: int) -> bool:
    fields = dict(line.split(":\t") for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return bool(int(fields["SigIgn"], 16) >> (signal.SIGTERM - 1) & 1)


def test_a_killed_launcher_takes_its_processes_with_it(small_store: Path, tmp_path: Path) -> None:
    mark = str(tmp_path / "results")
    # A killed process cannot remove its temporary files. Not below tmp_path, which is too long for sockets.
    with tempfile.TemporaryDirectory(prefix="bouquet-test-") as temporary:
        process = bouquet_until(
            "clients connected", "up", "--data", str(small_store), "--clients", "3", "--results", mark,
            environment={"TMPDIR": temporary},
        )  # fmt: skip
        (home,) = Path(temporary).glob("bouquet-*")
        stubborn = [pid for pid in guard.members(bytes(home)) if ignores_sigterm(pid)]
        process.kill()
        process.wait()
        deadline = time.monotonic() + 30
        while (left := leftovers(mark) + leftovers(str(small_store))) and time.monotonic() < deadline:
            time.sleep(0.2)
        assert not left
        assert not stubborn, "the end of a run would wait for them"


def test_bad_input_is_one_line_that_names_the_setting(small_store: Path, tmp_path: Path) -> None:
    import socket

    taken = socket.socket()
    taken.bind(("127.0.0.1", 0))
    taken.listen()
    port = str(taken.getsockname()[1])
    cases = {
        ("--config", "learning-rat=0.1"): "did you mean 'learning-rate'",
        ("--config", "batch-size=0"): "batch-size=0",
        ("--config", "min-train-nodes=9"): "min-train-nodes=9",
        ("--clients", "4"): "made for 3 partitions",
        ("--data", str(tmp_path / "nothing")): "nothing",
        ("--control-port", port): f"port {port} cannot be used",
    }
    try:
        for arguments, words in cases.items():
            done = _up(small_store, tmp_path, *arguments)
            said = done.stdout + done.stderr
            assert done.returncode == 2, (arguments, said)
            assert words in said and "Traceback" not in said, (arguments, said)
            assert len(done.stderr.strip().splitlines()) == 1, said
    finally:
        taken.close()
    assert not (tmp_path / "results").exists()


def test_a_lost_warm_process_costs_each_client_at_most_one_reply(small_store: Path, tmp_path: Path) -> None:
    """The clients of ``up`` share one; when it dies, each makes its own."""
    mark = str(tmp_path / "results")
    process = bouquet_until(
        "round 2/", "up", "--data", str(small_store), "--clients", "3", "--results", mark, "--rounds", "8"
    )
    try:
        assert process.stdout is not None
        shared = [child for child in psutil.Process(process.pid).children() if child.name() == PROCESS_NAME]
        assert len(shared) == 1
        shared[0].kill()
        rest = process.stdout.read()
        assert process.wait(120) == 0, rest
    finally:
        process.kill()
    summary = json.loads((tmp_path / "results" / "latest" / "summary.json").read_text())
    assert summary["rounds"] == 8
    lost = [failure["partition_id"] for failure in summary["failures"]]
    assert len(lost) == len(set(lost)), summary["failures"]
    assert "(3 trained" in rest.splitlines()[-2]
