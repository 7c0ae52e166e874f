"""A run that faults are injected into: what it tells while it goes on, and what each fault has cost."""

import json
import shutil
import signal
import statistics
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fault_table import TABLE, Fault
from faulty_federation import Federation
from federation_processes import until

REPLY_S = 1.5  # a reply is with the SuperLink by then


@dataclass
class Injection:
    """A fault that was injected.

    Attributes:
        name: what was broken.
        time: when.
        where: what the run was doing.
        client: the client that was broken; empty for a part of the server.
    """

    name: str
    time: datetime
    where: str
    client: str


@dataclass
class FaultyRun:
    """One run of Bouquet's own app on a federation, from ``train`` to its summary.

    Attributes:
        federation: what it runs on.
        config: run-config pairs.
        folder: the run's results.
    """

    federation: Federation
    config: str
    folder: Path = field(init=False)
    injected: list[Injection] = field(default_factory=list)

    def __post_init__(self) -> None:
        before = self._runs()
        self.begin()
        found: list[Path] = []

        def look() -> bool:
            found[:] = [run for run in self._runs() - before if (run / "events.jsonl").exists()]
            return bool(found)

        until(look, 120, self.logs)
        self.folder = found[0]

    def begin(self) -> None:
        """Start ``train``, once more where it was killed."""
        self.federation.train(self.config)

    def events(self, *names: str) -> list[dict[str, Any]]:
        """What the run has told so far; all of it, or the events of these names."""
        told = []
        for line in (self.folder / "events.jsonl").read_text().splitlines():
            with suppress(ValueError):  # a line that is being written
                told.append(json.loads(line))
        return [event for event in told if not names or event["event"] in names]

    def summary(self) -> dict[str, Any]:
        """``summary.json`` as it is now."""
        content: dict[str, Any] = json.loads((self.folder / "summary.json").read_text())
        return content

    def logs(self) -> str:
        """For a failure."""
        names = [
            "train",
            "superlink",
            *{f"supernode-{each.client[-1]}" for each in self.injected if each.client},
        ]
        return "\n".join(f"--- {name}\n{self.federation.log(name)[-3000:]}" for name in names)

    # -- where it stands ------------------------------------------------------------------------

    def finished_rounds(self) -> int:
        """The last round that is finished; 0 before the first."""
        return max((event["round"] for event in self.events("round_finished")), default=0)

    def wait_for_round(self, number: int) -> None:
        """Wait until round ``number`` is finished."""
        until(lambda: self.finished_rounds() >= number, 180, self.logs)

    def wait_for_more_rounds(self, count: int = 1) -> None:
        """Wait until ``count`` more rounds are finished: the run has outlived what was done to it."""
        self.wait_for_round(self.finished_rounds() + count)

    def wait_for_event(self, name: str, **fields: Any) -> dict[str, Any]:
        """Wait for an event that comes after the last injection; ``client`` is compared by name."""
        since = self.injected[-1].time if self.injected else datetime.fromtimestamp(0, UTC)
        found: list[dict[str, Any]] = []

        def look() -> bool:
            found[:] = [
                event
                for event in self.events(name)
                if _time(event) >= since and all(_value(event, key) == value for key, value in fields.items())
            ]
            return bool(found)

        until(look, 120, self.logs)
        return found[0]

    def is_the_latest(self) -> bool:
        """Whether no run was begun after this one."""
        return max(self._runs()) == self.folder

    def wait_for_a_miss(self, client: str) -> None:
        """Wait until a reply of ``client`` is wanted and not used, after the last injection."""
        since = self.injected[-1].time

        def missed() -> bool:
            return any(
                _time(event) >= since and event["client"]["name"] == client
                for event in self.events("reply_late", "reply_rejected")
            )

        until(missed, 120, self.logs)

    def wait_for_phase(self, phase: str = "train") -> None:
        """Wait until the next phase of this kind begins."""
        before = len(self.events("phase_started"))

        def begun() -> bool:
            return any(event["phase"] == phase for event in self.events("phase_started")[before:])

        until(begun, 120, self.logs)

    def wait_until_taking_part(self, client: str) -> None:
        """Wait until a reply of ``client`` is used in a round that has not begun yet."""
        begun = max(event["round"] for event in self.events("phase_started"))

        def takes_part() -> bool:
            replies = self.events("reply_accepted")
            return any(each["client"]["name"] == client and each["round"] > begun for each in replies)

        until(takes_part, 120, self.logs)

    def wait_until_idle(self, *clients: str) -> None:
        """Wait until a phase is under way and these clients have done their part of it."""
        since = time.monotonic()

        def idle() -> bool:
            nonlocal since
            at_work = any(self.federation.children_at_work(name) for name in clients)
            if at_work or self.events()[-1]["event"] not in ("phase_started", "reply_received"):
                since = time.monotonic()
            return time.monotonic() - since > REPLY_S

        until(idle, 60, self.logs)

    # -- faults and what they cost --------------------------------------------------------------

    def inject(self, name: str, fault: Callable[[], Any], client: str = "") -> None:
        """Break something, and note when."""
        self.injected.append(Injection(name, datetime.now(UTC), self._where(), client))
        fault()

    def stop(self) -> dict[str, Any]:
        """Interrupt the run, which has rounds enough for each fault, and look at what it leaves as :meth:`end` does."""
        self.federation.processes["train"].send_signal(signal.SIGTERM)
        return self.end(130)

    def end(self, *statuses: int) -> dict[str, Any]:
        """Wait for the end of ``train`` and write the table's rows; the summary.

        Asserts that every round is in the history once, and that no client's reply is counted twice in a phase of one.
        """
        status = self.federation.processes.pop("train").wait(400)
        assert status in (statuses or (0, 3)), self.logs()
        until(lambda: self.summary()["status"] != "running", 60, self.logs)
        summary = self.summary()
        rounds = self.federation.rounds(self.folder)
        assert rounds == list(range(1, len(rounds) + 1)), "there is a gap, or a round counts twice"
        assert summary["rounds"] == len(summary["round_s"]) == len(rounds), summary
        assert status == 130 or len(rounds) == summary["settings"]["num-server-rounds"], summary
        self._assert_each_reply_once()
        for fault in self.faults():
            TABLE.append(fault)
            assert fault.rounds_lost <= (0 if fault.client else 1), fault
        return summary

    def faults(self) -> list[Fault]:
        """What each fault has cost, from the run's events."""
        durations, undisturbed = self._durations()
        ends = [each.time for each in self.injected[1:]] + [datetime.max.replace(tzinfo=UTC)]
        found = []
        for each, end in zip(self.injected, ends, strict=True):
            told = [event for event in self.events() if each.time <= _time(event) < end]
            hit = [
                seconds - undisturbed
                for finished, seconds in durations.values()
                if each.time <= finished < end
            ]
            found.append(
                Fault(
                    each.name,
                    each.where,
                    self._rounds_lost(each.time, end),
                    max(sum(hit), 0.0),
                    _told(told, each.client),
                    each.client,
                )
            )
        return found

    def keep_a_copy(self, name: str) -> str:
        """A copy of the results, to run once more from one of its checkpoints."""
        shutil.copytree(self.folder, self.folder.with_name(name))
        return name

    def _durations(self) -> tuple[dict[int, tuple[datetime, float]], float]:
        """Of each round when it was finished for good and how long after the one before; and of one without a fault."""
        finished = {event["round"]: _time(event) for event in self.events("round_finished")}
        before = _time(self.events("clients_connected")[0])
        durations: dict[int, tuple[datetime, float]] = {}
        calm = []
        for number, end in sorted(finished.items()):
            durations[number] = end, (end - before).total_seconds()
            if number > 1 and not any(before <= each.time <= end for each in self.injected):
                calm.append(durations[number][1])
            before = end
        assert calm, "no round was left alone"
        return durations, statistics.median(calm)

    def _rounds_lost(self, begin: datetime, end: datetime) -> int:
        """Rounds that were begun before ``end`` and run again after a fault between ``begin`` and ``end``."""
        lost, begun = 0, 0
        for event in self.events("phase_started", "run_resumed"):
            if event["event"] == "phase_started":
                begun = event["round"]
            else:
                lost += max(begun - event["round"], 0) if begin <= _time(event) < end else 0
                begun = event["round"]
        return lost

    def _assert_each_reply_once(self) -> None:
        """Of the rounds as they count: each reply that was accepted, and what was averaged of each round."""
        accepted: list[tuple[int, str, int]] = []
        for event in self.events("reply_accepted", "run_resumed", "round_finished"):
            match event["event"]:
                case "run_resumed":
                    accepted = [reply for reply in accepted if reply[0] <= event["round"]]
                case "reply_accepted":
                    accepted.append((event["round"], event["phase"], event["client"]["node_id"]))
                case _:
                    trained = [reply for reply in accepted if reply[:2] == (event["round"], "train")]
                    assert event["trained"] == len(trained), event
        assert not [reply for reply, count in Counter(accepted).items() if count > 1]

    def _where(self) -> str:
        told = self.events(
            "phase_started", "phase_finished", "round_finished", "checkpoint_written", "run_finished"
        )
        if not told:
            return "before round 1"
        event = told[-1]
        match event["event"]:
            case "phase_started":
                return f"round {event['round']}, {event['phase']}"
            case "phase_finished":
                return f"round {event['round']}, after {event['phase']}"
            case "run_finished":
                return "after the last round"
            case _:
                return f"after round {event['round']}"

    def _runs(self) -> set[Path]:
        return set((self.federation.folder / "results").glob("2*"))


def _time(event: dict[str, Any]) -> datetime:
    return datetime.fromisoformat(event["time"])


def _value(event: dict[str, Any], key: str) -> Any:
    return event[key]["name"] if key == "client" else event[key]


def _told(events: Sequence[dict[str, Any]], client: str) -> str:
    """What the run told after a fault, in a few words."""
    said = []
    for event in events:
        about = client and isinstance(event.get("client"), dict) and event["client"]["name"] == client
        match event["event"]:
            case "run_resumed":
                said.append(f"resumed after round {event['round']}")
            case "phase_retried":
                said.append(f"{event['phase']} tried again")
            case "client_lost" | "client_returned" if about:
                said.append(event["event"].removeprefix("client_"))
            case "reply_late" | "reply_rejected" if about:
                said.append(f"missed {event['phase']} of round {event['round']}")
            case "reply_accepted" if about and said and said[-1] != "takes part":
                said.append("takes part")
    return ", ".join(dict.fromkeys(said)) or "nobody missed anything"
