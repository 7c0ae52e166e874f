"""Memory of the warm parent: huge pages for cheap forks, and what its warm-up freed."""

import platform

import pytest
from fresh_python import ROOT, run_python


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
    gained = int(run_python(program))
    kernel = tuple(int(part) for part in platform.release().split(".")[:2])
    assert gained >= 32 * 1024 if kernel >= (6, 1) else gained >= 0


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has malloc_trim")
def test_what_an_apps_warm_up_freed_goes_back_before_the_process_waits() -> None:
    program = """
import socket
import numpy as np
import psutil
from app.fleet.warm import parent
from app.process import keep_freed_memory
class Home:
    def move_in(self):
        pass
    def lock(self, *arguments, **named):
        pass
def warmed_up(content, request, lock):
    keep_freed_memory()
    global kept
    kept = [np.ones(1 << 17) for _ in range(300)][-1]  # 1 MiB each; the last holds the heap's end
ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
ours.shutdown(socket.SHUT_WR)  # nothing is asked
parent.App = warmed_up
before = psutil.Process().memory_full_info().uss
assert parent.serve_app(theirs, b"", {}, Home()) == 0 and b"ready" in ours.recv(1000)
print((psutil.Process().memory_full_info().uss - before) >> 20)
"""
    assert int(run_python(program)) < 50
