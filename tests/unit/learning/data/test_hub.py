"""A data set of the hub works by its name, and once fetched also while the hub cannot be reached.

The hub here is a stand-in that answers the calls `datasets` makes, over real HTTP.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from pictures_on_disk import hub_folder

from bench import hub as stand_in

SCRIPT = """
import sys
from pathlib import Path
from app.errors import UserError
from app.learning.data.prepare import Request, prepare
try:
    print(prepare(Request(sys.argv[1], num_partitions=2), Path(sys.argv[2])).model_dump_json())
except UserError as error:
    print(error)
    sys.exit(2)
"""


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[int]:
    """The port of a hub that has one data set."""
    folder = hub_folder(tmp_path / "mnist", size=(28, 28), mode="L", labels={"label": 10})
    with stand_in.serving({"ylecun/mnist": folder}.get) as port:
        yield port


def prepare(name: str, out: Path, port: int) -> tuple[int, str]:
    """`prepare` in a process of its own: the hub's address is read when its client is imported."""
    environment = {**os.environ, **stand_in.environment(port, out.parent / "huggingface")}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, name, str(out)], env=environment, capture_output=True, text=True
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stdout


def test_by_name_then_from_the_cache_then_not_at_all(hub: int, tmp_path: Path) -> None:
    status, output = prepare("mnist", tmp_path / "first", hub)
    assert status == 0, output
    manifest = json.loads(output)
    assert manifest["source"] == "mnist" and manifest["shape"] == [1, 28, 28]
    assert manifest["counts"] == [{"train": 80, "val": 20}] * 2 and manifest["test_count"] == 40

    status, output = prepare("nobody/nothing", tmp_path / "other", hub)
    assert status == 2 and "the hub has no such public data set" in output

    # Port 9 ("discard") answers nobody.
    status, output = prepare("mnist", tmp_path / "second", 9)
    assert status == 0 and json.loads(output)["checksum"] == manifest["checksum"]
    status, output = prepare("cifar100", tmp_path / "third", 9)
    assert status == 2 and output.count("\n") == 1 and "the hub cannot be reached" in output
