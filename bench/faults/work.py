"""What a client of each contender does besides training: it leaves marks, takes its time, and fails when it is told to.

The marks are lines of its output. They show from the outside, alike for all, who trained in which round and when.
A copy of this file travels with each contender's app, so it imports nothing of the benchmark.
"""

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

MARK = "BENCH-MARK "
WORK_S = "BOUQUET_BENCH_WORK_S"
"""Seconds that a client sleeps in each training, as if its model were larger."""
RAISES = "BOUQUET_BENCH_RAISES"
"""client:round that raises; empty for none"""


@contextmanager
def training(client: int, server_round: int) -> Iterator[None]:
    """Around a client's training in a round; both are counted from 1."""
    _mark("begin", client, server_round)
    time.sleep(float(os.environ.get(WORK_S, "0")))
    if os.environ.get(RAISES) == f"{client}:{server_round}":
        raise RuntimeError("this site raises, as the benchmark wants it")
    yield
    _mark("end", client, server_round)


def _mark(what: str, client: int, server_round: int) -> None:
    mark = {"what": what, "client": client, "round": server_round, "time": time.time()}
    print(f"\n{MARK}{json.dumps(mark)}", flush=True)
