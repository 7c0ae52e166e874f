"""``bouquet up`` starts a process that has died again, and gives up when one dies again and again."""

import json
import re
import subprocess
from pathlib import Path

import psutil
import pytest
from federation_processes import bouquet_until, leftovers, until

pytestmark = pytest.mark.federation


def up(words: str, store: Path, results: Path, rounds: int) -> "subprocess.Popen[str]":
    return bouquet_until(
        words, "up", "--data", str(store), "--clients", "3", "--results", str(results), "--rounds", str(rounds),
        "--config", "local-epochs=2",
    )  # fmt: skip


def process_of(launcher: int, name: str) -> psutil.Process:
    """The process ``name`` of a federation, as soon as there is one."""
    found: list[psutil.Process] = []

    def look() -> bool:
        found[:] = [
            each
            for each in psutil.Process(launcher).children(recursive=True)
            if each.status() != psutil.STATUS_ZOMBIE
            and (each.name() == name or f" {name} " in " ".join(each.cmdline()))
        ]
        return bool(found)

    until(look, 30, lambda: f"there is no {name}")
    return found[0]


def read_until(process: "subprocess.Popen[str]", words: str) -> str:
    assert process.stdout is not None
    said = ""
    for line in process.stdout:
        said += line
        if words in line:
            return said
    raise AssertionError(f"it never said {words!r}: {said}")


def test_a_client_and_the_superlink_are_started_again_and_the_run_goes_on(
    small_store: Path, tmp_path: Path
) -> None:
    process = up("round 1/", small_store, tmp_path / "results", 6)
    try:
        process_of(process.pid, "supernode-1").kill()
        said = read_until(process, "supernode-1 was ended by SIGKILL")
        said += read_until(process, "round 3/")
        process_of(process.pid, "superlink").kill()
        said += read_until(process, "superlink was ended by SIGKILL")
        assert process.stdout is not None
        said += process.stdout.read()
        assert process.wait(60) in (0, 3), said
    finally:
        process.kill()
    rounds = re.findall(r"^round (\d)/6", said, re.MULTILINE)
    assert rounds == sorted(set(rounds)) and rounds[-1] == "6", said
    assert json.loads((tmp_path / "results" / "latest" / "summary.json").read_text())["rounds"] == 6
    until(lambda: not leftovers(str(tmp_path)), 60, lambda: "a process stayed behind")


def test_a_client_that_dies_again_and_again_ends_the_federation_with_its_name(
    small_store: Path, tmp_path: Path
) -> None:
    process = up("clients connected", small_store, tmp_path / "results", 500)
    try:
        for _ in range(2):
            process_of(process.pid, "supernode-1").kill()
            read_until(process, "supernode-1 was ended by SIGKILL")
        process_of(process.pid, "supernode-1").kill()
        said = read_until(process, "error: ")
        assert "supernode-1 was ended by SIGKILL" in said and "(3 times in a row)" in said, said
        assert process.wait(60) == 2
    finally:
        process.kill()
    until(lambda: not leftovers(str(tmp_path)), 60, lambda: "a process stayed behind")
