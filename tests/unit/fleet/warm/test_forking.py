"""What keeps a process from being forked, and what does not."""

import sys
from types import SimpleNamespace

import pytest
from fresh_python import run_python

from app.fleet.warm import forking


def test_threads_of_openblas_are_no_obstacle_and_those_of_openmp_are() -> None:
    program = """
import os
os.environ["OMP_NUM_THREADS"] = "2"
import numpy as np
from app.fleet.warm.forking import why_not
np.ones((500, 500)) @ np.ones((500, 500))
assert len(os.listdir("/proc/self/task")) > 1
print(repr(why_not()))
import torch
torch.rand(2000, 2000).sum()
print(why_not())
"""
    assert run_python(program).splitlines() == [
        "''",
        "its import leaves threads behind: 1 of a library, such as OpenMP",
    ]


def test_the_thread_of_a_table_library_is_no_obstacle() -> None:
    program = """
from pathlib import Path
import pandas, torch
from app.fleet.warm.forking import HARMLESS, why_not
names = {(each / "comm").read_text().strip() for each in Path("/proc/self/task").iterdir()}
assert names & HARMLESS, names
print(repr(why_not()))
import os
if (pid := os.fork()) == 0:
    frame = pandas.DataFrame({"a": range(1000)}).convert_dtypes(dtype_backend="pyarrow")
    torch.rand(100, 100) @ torch.rand(100, 100)
    os._exit(0 if int(frame["a"].sum()) == 499500 else 1)
print(os.waitpid(pid, 0)[1])
"""
    assert run_python(program).splitlines() == ["''", "0"]


def test_a_process_that_has_started_cuda_is_not_forked(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = SimpleNamespace(is_initialized=lambda: True)
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda))
    assert forking.why_not() == "its import starts CUDA"
