"""One contender, one fault: start, submit, break something in the midst, and watch from the outside."""

import re
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from bench.faults.contract import (
    FOR_GOOD,
    RESTART_S,
    SERVER,
    STOP,
    Contender,
    Federation,
    Work,
    client,
    wait_until,
)
from bench.faults.verdict import Outcome, rounds_missed
from bench.processes import BenchError

FAULTY = 1
POLL_S = 1.0
MISSING = re.compile(r"miss|lost|late|fail|dead|offline|disconnect|error|drop", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that breaks when client 1 is half through its training."""

    key: str
    title: str
    lasts_s: float = 0.0
    """How long a part is away; the bound counts from its end."""
    strikes: Callable[[Federation], None] | None = None
    heals: Callable[[Federation], None] | None = None
    kills_client: bool = False


UNDISTURBED = Fault("undisturbed", "undisturbed run")
RAISES = Fault("raises", "one site raises in training")
FAULTS = (
    Fault("gone", "client killed, for good", strikes=lambda f: f.kill(client(FAULTY), FOR_GOOD), kills_client=True),
    Fault("killed", "client killed and started again", RESTART_S, lambda f: f.kill(client(FAULTY))),
    Fault("cut", "client cut off for 90 s", 90, lambda f: f.line.cut(), lambda f: f.line.mend()),
    Fault("server", "server killed and started again", RESTART_S, lambda f: f.kill(SERVER)),
    Fault("down", "server down for 2 min", 120, lambda f: f.kill(SERVER, 120)),
    RAISES,
)  # fmt: skip


def run(contender: Contender, fault: Fault, work: Work, scratch: Path, bound_s: float) -> Outcome:
    """Run it once. An outcome with a problem is no measurement.

    A run counts as never ended when nobody has trained for `bound_s` seconds, and the fault itself is over that long.
    """
    scratch.mkdir(parents=True, exist_ok=True)
    try:
        with contender.federation(scratch, work, raises=fault is RAISES) as federation:
            federation.start()
            federation.submit()
            return _watch(federation, fault, bound_s)
    except Exception as error:  # an hour of other runs is worth more than this one
        return Outcome(fault.key, False, False, "", 0.0, problem=f"{error}" or repr(error))


def _watch(federation: Federation, fault: Fault, bound_s: float) -> Outcome:
    wait_until(lambda: bool(federation.marks()), "the first training", 240, POLL_S)
    began = federation.marks()[0].time
    struck = _strike(federation, fault, 2 * bound_s + 60 * federation.work.fault_round)
    noticed: float | None = None
    ended: float | None = None
    while True:
        if STOP.is_set():
            raise BenchError("interrupted")
        now = time.time()
        if fault.heals and now - struck >= fault.lasts_s:
            fault.heals(federation)
        federation.tend()
        if fault.kills_client and noticed is None and federation.misses(FAULTY):
            noticed = time.time() - struck
        if ended is None:
            state, word = federation.state()
            ended = time.time() if state != "runs" else None
        marks = federation.marks()
        quiet = now - max(marks[-1].time, struck + fault.lasts_s) > bound_s
        watched = fault.kills_client and noticed is None and now - struck <= bound_s
        if (ended is not None or quiet) and not watched:
            break
        time.sleep(POLL_S)
    told = None
    if state == "done" and rounds_missed(marks, FAULTY):
        with suppress(BenchError):
            told = tells(federation.result(), federation.names(FAULTY))
    seconds = (ended or time.time()) - began
    return Outcome(fault.key, state == "done", ended is not None, word, seconds, marks, noticed, told)


def _strike(federation: Federation, fault: Fault, timeout_s: float) -> float:
    """Break what the fault breaks when client 1 trains in its round; when that was (the start, where nothing is broken)."""
    work = federation.work
    if fault.strikes is None:
        return federation.marks()[0].time

    def trains() -> bool:
        federation.tend()
        begun = [m for m in federation.marks() if m.what == "begin" and m.round == work.fault_round]
        return any(mark.client == FAULTY for mark in begun)

    wait_until(trains, f"the training of round {work.fault_round}", timeout_s, 0.2)
    time.sleep(work.work_s / 2)
    struck = time.time()
    fault.strikes(federation)
    return struck


def tells(result: str, names: list[str]) -> bool:
    """Whether a line of the end result says of the client that it missed something."""
    return any(MISSING.search(line) and any(name in line for name in names) for line in result.splitlines())
