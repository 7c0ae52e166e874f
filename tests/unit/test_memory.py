"""Memory that a warm process keeps: freed blocks for the next batch, and huge pages for cheap forks."""

import platform
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def _run(program: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has mallopt")
def test_the_next_batch_finds_the_pages_of_the_last() -> None:
    program = """
import resource
import numpy as np
from app.learning.memory import keep_freed_memory
def faults(batches):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(batches):
        blocks = [np.ones(3 << 17) for _ in range(4)]  # 3 MiB each
        del blocks
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults(3)
stock = faults(50)
keep_freed_memory()
faults(3)
print(stock, faults(50))
"""
    stock, kept = map(int, _run(program).split())
    assert kept < 1000 < stock


def test_private_memory_moves_to_huge_pages_and_stays_what_it_was() -> None:
    program = f"""
import re, runpy
parent = runpy.run_path({str(ROOT / "app" / "fleet" / "warm" / "parent.py")!r})
content = bytearray(b"bouquet " * (8 << 20))
def huge():
    return sum(int(size) for size in re.findall(r"AnonHugePages: +([0-9]+)", open("/proc/self/smaps").read()))
before = huge()
parent["use_huge_pages"]()
assert content == b"bouquet " * (8 << 20)
print(huge() - before)
"""
    gained = int(_run(program))
    kernel = tuple(int(part) for part in platform.release().split(".")[:2])
    assert gained >= 32 * 1024 if kernel >= (6, 1) else gained >= 0


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has malloc_trim")
def test_what_an_apps_warm_up_freed_goes_back_before_the_process_waits() -> None:
    program = """
import socket
import numpy as np
import psutil
from app.fleet.warm import parent
from app.learning.memory import keep_freed_memory
def warmed_up(content, request):
    keep_freed_memory()
    global kept
    kept = [np.ones(1 << 17) for _ in range(300)][-1]  # 1 MiB each; the last holds the heap's end
ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
ours.shutdown(socket.SHUT_WR)  # nothing is asked
parent.App = warmed_up
before = psutil.Process().memory_full_info().uss
assert parent.serve_app(theirs, b"", {}) == 0 and b"ready" in ours.recv(1000)
print((psutil.Process().memory_full_info().uss - before) >> 20)
"""
    assert int(_run(program)) < 50
