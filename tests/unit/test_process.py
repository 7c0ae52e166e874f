"""Memory that a process keeps for its next batch, and how it says that it was stopped."""

import platform
import signal

import pytest
from fresh_python import run_python

from app.process import interruptible


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has mallopt")
def test_the_next_batch_finds_the_pages_of_the_last() -> None:
    program = """
import resource
import numpy as np
from app.process import keep_freed_memory
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
    stock, kept = map(int, run_python(program).split())
    assert kept < 1000 < stock


def test_a_signal_interrupts_the_body_once_and_reaches_its_handler_afterwards() -> None:
    handled: list[object] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: handled.append(number))
    try:
        try:
            with interruptible():
                try:
                    signal.raise_signal(signal.SIGTERM)
                except KeyboardInterrupt:
                    handled.append("said")
                    signal.raise_signal(signal.SIGTERM)  # an impatient second one changes nothing
                    handled.append("whole")
                    raise
        except KeyboardInterrupt:
            handled.append("ended")
        assert handled == ["said", "whole", signal.SIGTERM, "ended"]
    finally:
        signal.signal(signal.SIGTERM, before)
