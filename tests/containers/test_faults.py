"""Containers that are killed, cut off, out of memory or out of space: the run goes on and its summary tells what happened."""

import csv
import io
import json
import os
import re
import subprocess
import time
from collections.abc import Iterator
from typing import Any

import pytest
from compose_stack import LABEL, Stack, docker, eventually

pytestmark = pytest.mark.containers

CLIENTS = 3
OUTAGE_S = float(os.environ.get("BOUQUET_TEST_OUTAGE_S", "20"))  # longer than the server takes to notice


class Federation(Stack):
    """Three CPU clients, whose parts are broken one by one. The state volume is small."""

    def __init__(self, tag: str) -> None:
        super().__init__(tag, {"DATASET": "digits", "NUM_CLIENTS": str(CLIENTS)})
        self._image = f"bouquet-superlink:{tag}"
        self._run: dict[str, str] = {}
        self._holder = ""

    def start(self) -> None:
        """Bring everything up but training."""
        label = [f"--label={LABEL}={self.name}", "--label=com.docker.compose.volume=state"]
        small = ["--opt=type=tmpfs", "--opt=device=tmpfs", "--opt=o=size=64k,uid=10001,gid=10001,mode=0700"]
        docker("volume", "create", *label, *small, f"{self.name}_state")
        # A volume in memory lasts as long as a container has it. The image's labels would make this one a SuperLink.
        self._holder = docker(
            "run", "--detach", "--network=none", f"--label={LABEL}=", f"--volume={self.name}_state:/state",
            "--entrypoint=sleep", self._image, "infinity",
        ).strip()  # fmt: skip
        self.compose("up", "--detach", "supernode-cpu", timeout=600)

    def remove(self) -> None:
        """Take everything down."""
        if self._holder:
            docker("rm", "--force", self._holder)
        super().remove()

    def train(self, rounds: int, config: str) -> None:
        """Submit a run."""
        self._run = {"ROUNDS": str(rounds), "CONFIG": config}
        self.up("--no-deps", "train")

    def up(self, *arguments: str) -> None:
        """`docker compose up`, with the settings of the run."""
        self.compose("up", "--detach", *arguments, **self._run)

    def wait_for(self, words: str, within: float = 240) -> None:
        """Wait until ``train`` has said so."""
        eventually(
            lambda: words in self.logs("train"), within=within, what=f"{words!r}: {self.logs()[-6000:]}"
        )

    def end(self) -> int:
        """Wait for the end of the run; the status of ``train``."""
        return self.wait("train", timeout=600)

    def kill(self, container: str) -> None:
        """SIGKILL a container's first process from outside: for Docker it has died, and was not stopped by hand."""
        pid = self.inspect(container)["State"]["Pid"]
        docker(
            "run",
            "--rm",
            "--network=none",
            "--pid=host",
            "--user=0",
            "--entrypoint=sh",
            self._image,
            "-c",
            f"kill -9 {pid}",
        )

    def in_superlink(self, command: str) -> subprocess.CompletedProcess[str]:
        """Run a shell command in the SuperLink's container."""
        (superlink,) = self.containers("superlink")
        return self.inside(superlink, "sh", "-c", command)

    def enroll_another(self) -> subprocess.CompletedProcess[str]:
        """Try to let a client in that nobody knows yet."""
        return self.in_superlink("bouquet node-key /tmp/late.key && bouquet enroll late /tmp/late.key.pub")

    def client(self, number: int) -> str:
        """The container that holds a partition, as soon as one does."""
        eventually(lambda: number in self.partition_ids().values(), within=90, what=f"a client with {number}")
        return next(each for each, held in self.partition_ids().items() if held == number)

    def summary(self) -> dict[str, Any]:
        content: dict[str, Any] = json.loads(self.latest("summary.json"))
        return content

    def events(self, name: str) -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in self.latest("events.jsonl").splitlines()]
        return [event for event in lines if event["event"] == name]

    def check_rounds(self, rounds: int) -> None:
        """Each round is there once, and no client twice in a phase of one. A stopped run was in one more round."""
        rows = list(csv.DictReader(io.StringIO(self.latest("history.csv"))))
        keys = [(int(row["round"]), row["phase"], row["partition_id"]) for row in rows]
        assert len(keys) == len(set(keys)), keys
        finished = {number for number, phase, _ in keys if phase == "server"}
        assert sorted(finished) == list(range(1, rounds + 1))
        assert max(number for number, *_ in keys) <= rounds + (self.summary()["status"] == "interrupted")
        assert self.summary()["rounds"] == rounds


@pytest.fixture(scope="module")
def federation(images: str) -> Iterator[Federation]:
    started = Federation(images)
    try:
        started.start()
        yield started
    finally:
        started.remove()
        assert started.left_over() == []


def test_a_run_outlives_the_containers_of_its_parts(federation: Federation) -> None:
    """The SuperLink, which its restart policy brings back, then `train`, which follows the run, then a client."""
    federation.train(20, "local-epochs=6")
    federation.wait_for("round 2/")
    (superlink,) = federation.containers("superlink")
    federation.kill(superlink)
    federation.wait_for("the run was cut off")
    federation.wait_for("goes on after round")
    assert federation.inspect(superlink)["RestartCount"] == 1

    (train,) = federation.containers("train")
    federation.kill(train)
    docker("wait", train)
    before = federation.summary()["rounds"]
    eventually(lambda: federation.summary()["rounds"] > before, within=120, what="it goes on without `train`")
    federation.up("--no-deps", "train")
    federation.wait_for("this run is under way already")

    client = federation.client(1)
    federation.kill(client)
    eventually(lambda: federation.inspect(client)["RestartCount"] == 1, within=60, what="the client is back")
    assert federation.end() in (0, 3), federation.logs("train")
    federation.check_rounds(20)
    summary = federation.summary()
    assert len(summary["resumed_from"]) == 1 and "clients took part" in summary["participation"]
    assert federation.events("reply_accepted")[-1]["round"] == 20
    assert len({event["client"]["node_id"] for event in federation.events("reply_accepted")}) == CLIENTS


def test_a_client_that_was_cut_off_comes_back_and_a_stopped_run_goes_on(federation: Federation) -> None:
    federation.train(2000, "local-epochs=3")  # it is stopped in the midst of them
    federation.wait_for("round 1/")
    client, network = federation.client(2), f"{federation.name}_federation"
    state = federation.inspect(client)["State"]
    docker("network", "disconnect", network, client)
    federation.wait_for("client-2 is offline")
    reached = federation.summary()["rounds"]
    time.sleep(OUTAGE_S)
    assert federation.summary()["rounds"] > reached, "the others go on"
    docker("network", "connect", network, client)

    def takes_part() -> bool:
        return any(
            event["client"]["partition_id"] == 2 and event["round"] > reached + 1
            for event in federation.events("reply_accepted")
        )

    eventually(takes_part, within=180, what="it takes part again")
    after = federation.inspect(client)["State"]
    assert after["StartedAt"] == state["StartedAt"], "nobody has started it again"

    stopped = federation.containers()
    federation.compose("stop")
    killed = [each for each in stopped if federation.inspect(each)["State"]["ExitCode"] == 137]
    assert killed == [], "each ends by itself before Docker kills it"
    federation.up()
    federation.wait_for("goes on after round")
    assert federation.events("run_finished")[0]["status"] == "interrupted"
    before = federation.summary()["rounds"]
    eventually(lambda: federation.summary()["rounds"] > before, within=120, what="it goes on")
    federation.compose("stop", "train")
    eventually(lambda: federation.summary()["status"] == "interrupted", within=30, what="it is stopped")
    summary = federation.summary()
    federation.check_rounds(summary["rounds"])
    assert re.fullmatch(
        r"2 of 3 clients took part in every round; client-2 missed \d+ of \d+", summary["participation"]
    )


def test_an_upgrade_waits_for_the_round_and_the_run_goes_on_after_it(federation: Federation) -> None:
    """As the READMEs say. The new container has another network, and `train` finds it."""
    federation.train(15, "local-epochs=4")
    federation.wait_for("round 1/")
    drained = federation.in_superlink("bouquet drain")
    assert drained.returncode == 0 and "safe to stop" in drained.stdout, drained
    assert federation.summary()["status"] == "interrupted"
    federation.up("--no-deps", "--force-recreate", "superlink")
    federation.wait_for("goes on after round")
    assert federation.end() in (0, 3), federation.logs("train")
    federation.check_rounds(15)


def test_a_full_state_volume_is_named_and_keeps_no_member_out(federation: Federation) -> None:
    client = federation.client(0)
    federation.in_superlink("cat /dev/zero >/state/ballast")

    def starts() -> int:
        return federation.logs("superlink").count("client-0 is online")

    before = starts()
    federation.kill(client)
    eventually(lambda: starts() > before, within=90, what="it is started again")
    federation.train(10, "seed=5")
    assert federation.end() in (0, 3), federation.logs("train")
    last = [event for event in federation.events("reply_accepted") if event["round"] == 10]
    assert 0 in {event["client"]["partition_id"] for event in last}, federation.summary()["failures"]
    print(federation.summary()["participation"], federation.summary()["failures"])
    refused = federation.enroll_another()
    assert refused.returncode == 2 and "/state/nodes.json cannot be written" in refused.stderr, refused
    federation.in_superlink("rm /state/ballast")
    assert "late enrolled" in federation.enroll_another().stdout
