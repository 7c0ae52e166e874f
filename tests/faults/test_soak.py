"""A run under faults drawn at random, one after the other: it ends, and its history has no gap and no double."""

import os
import random
from collections.abc import Callable

import pytest
from faulty_federation import Federation
from faulty_run import FaultyRun

from bench.faults.line import Line

pytestmark = pytest.mark.federation

LONG = os.environ.get("BOUQUET_FAULTS") == "long"
ROUNDS = 30 if LONG else 8
SEED = int(os.environ.get("BOUQUET_FAULTS_SEED", "") or 1)
CONFIG = f"num-server-rounds={ROUNDS} fraction-evaluate=0.5 min-replies=0.6 round-deadline=60.0 seed={SEED}"
ON_THE_LINE = (0, 1, 2)  # clients


class Faults:
    """What can happen; each fault leaves the federation such that it can go on."""

    def __init__(self, federation: Federation, run: FaultyRun, line: Line, draw: random.Random) -> None:
        self.federation, self.run, self.line, self.draw = federation, run, line, draw

    def inject_one(self) -> None:
        """Draw a fault, and the client that it hits."""
        kinds: dict[str, Callable[[int], None]] = {
            "SIGKILL of a client": self.kill_client,
            "SIGKILL of a warm parent": self.kill_warm_parent,
            "SIGSTOP of a client": self.stop_client,
            "line of three clients cut off": self.cut_line,
            "SIGKILL of the ServerApp": self.kill_serverapp,
            "SIGKILL of the SuperLink": self.kill_superlink,
            "SIGKILL of the SuperLink and the ServerApp": self.cut_power,
            "SIGKILL of `train`": self.kill_train,
        }
        name = self.draw.choice(list(kinds))
        number = self.draw.choice(ON_THE_LINE) if "line" in name else self.draw.randrange(10)
        client = f"client-{number}" if "client" in name or "parent" in name else ""
        self.run.inject(name, lambda: kinds[name](number), client)

    def a_while(self) -> None:
        self.federation.outage(self.draw.uniform(0, 4))

    def kill_client(self, number: int) -> None:
        self.federation.kill(f"supernode-{number}")
        self.a_while()
        self.federation.supernode(number)

    def kill_warm_parent(self, number: int) -> None:
        for process in self.federation.warm_processes(f"supernode-{number}")[:1]:
            process.kill()

    def stop_client(self, number: int) -> None:
        self.federation.pause(f"supernode-{number}")
        self.a_while()
        self.federation.resume(f"supernode-{number}")

    def cut_line(self, _number: int) -> None:
        self.line.cut()
        self.a_while()
        self.line.mend()

    def kill_serverapp(self, _number: int) -> None:
        self.federation.serverapp().kill()

    def kill_superlink(self, _number: int) -> None:
        self.federation.kill("superlink")
        self.a_while()
        self.federation.superlink()

    def cut_power(self, _number: int) -> None:
        self.federation.power_cut()
        self.federation.superlink()

    def kill_train(self, _number: int) -> None:
        self.federation.kill("train")
        self.run.begin()


def test_a_run_ends_whatever_happens_to_it(ten: Federation) -> None:
    print(f"BOUQUET_FAULTS_SEED={SEED}")
    draw = random.Random(SEED)
    with Line(ten.fleet_port) as line:
        for number in ON_THE_LINE:
            ten.lines[number] = line.port
            ten.restart(number)
        run = FaultyRun(ten, CONFIG)
        faults = Faults(ten, run, line, draw)
        run.wait_for_round(1)
        while run.finished_rounds() < ROUNDS - 2:
            faults.inject_one()
            run.wait_for_more_rounds()
            ten.outage(draw.uniform(0, 1))
        run.end(0, 3)
        assert run.is_the_latest(), "one run, however often it was submitted"
