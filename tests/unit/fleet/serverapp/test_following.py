"""When a phase of another app goes on, what is sent again, and what is told of it."""

from collections.abc import Callable, Iterator
from typing import Any, cast

import pytest
from flwr.app import Error, Message, MetricRecord, RecordDict
from flwr.common.constant import ErrorCode
from in_process import identify

from app.fleet.deployment import RunRules
from app.fleet.serverapp.following import LOOK_S, Following
from app.rounds import events
from app.rounds.enough import CLOCKS_DIFFER_S


class Recorder:
    """A sink that keeps the events."""

    def __init__(self) -> None:
        self.events: list[events.Event] = []

    def take(self, event: events.Event, record: dict[str, Any]) -> None:
        self.events.append(event)

    def of(self, kind: type[Any]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]


class Site:
    """A ServerApp's side of a run without processes: nodes 1, 2, ..., and a clock."""

    def __init__(self, nodes: int, rules: RunRules) -> None:
        self.now, self.online, self.told = 0.0, set(range(1, nodes + 1)), Recorder()
        self.counted: list[tuple[str, str | None]] = []
        self.sent = 0
        self.messages: dict[str, Message] = {}
        self.following = Following(
            "run", [self.told], rules, resend=self._number, online=lambda: set(self.online),
            name_of=lambda node: f"site-{node}", counted=lambda *told: self.counted.append(told),
            clock=lambda: self.now,
        )  # fmt: skip
        self.following.begin("1", {})

    def _number(self, message: Message) -> str:
        self.sent += 1
        message.metadata.__dict__["_message_id"] = f"m{self.sent}"
        self.messages[f"m{self.sent}"] = message
        return f"m{self.sent}"

    def send(self, *nodes: int, kind: str = "train", group: str = "") -> dict[int, str]:
        """What the app sends; the ids by node."""
        messages = [Message(RecordDict(), node, kind, group_id=group) for node in nodes]
        self.following.limit(messages)
        keys = [self._number(message) for message in messages]
        self.following.sent(keys, messages)
        return dict(zip(nodes, keys, strict=True))

    def reply(self, key: str, error: int | None = None) -> Message:
        content: Any = (
            Error(error, "why") if error is not None else RecordDict({"m": MetricRecord({"num-examples": 7})})
        )
        return Message(content, reply_to=self.messages[key])

    def pull(self, keys: dict[int, str], *came: Message) -> dict[str, Message]:
        """What the app receives, by the ids that it knows."""
        asked = set(keys.values())
        self.following.present(asked)
        replies, _ = self.following.replies(asked, came)
        return {reply.metadata.reply_to_message_id: reply for reply in replies}


@pytest.fixture
def site() -> Iterator[Callable[..., Site]]:
    identify()
    yield lambda nodes=3, **rules: Site(nodes, RunRules(**rules))


def test_all_are_waited_for_and_the_phase_is_told(site: Callable[..., Site]) -> None:
    run = site()
    keys = run.send(1, 2, 3)
    run.now = 1000.0
    assert run.pull(keys, run.reply(keys[1]), run.reply(keys[2])).keys() == {keys[1], keys[2]}
    run.now = 2000.0
    assert not run.pull({3: keys[3]}), "nobody has set how many are enough"
    assert run.pull({3: keys[3]}, run.reply(keys[3])).keys() == {keys[3]}
    (finished,) = run.told.of(events.PhaseFinished)
    assert (finished.round, finished.phase, finished.accepted, finished.seconds) == (1, "train", 3, 2000.0)
    assert [event.num_examples for event in run.told.of(events.ReplyAccepted)] == [7, 7, 7]
    run.following.end("completed", "")
    assert run.following.participation.sentence() == "3 of 3 clients took part whenever they were asked"


def test_with_enough_the_slow_ones_are_waited_for_during_the_grace(site: Callable[..., Site]) -> None:
    run = site(4, min_replies=0.5, grace=10.0)
    keys = run.send(1, 2, 3, 4)
    run.now = 5.0
    run.pull(keys, run.reply(keys[1]), run.reply(keys[2]))
    rest = {node: keys[node] for node in (3, 4)}
    run.now = 14.9
    assert not run.pull(rest)
    run.now = 15.1
    given_up = run.pull(rest)
    assert given_up.keys() == set(rest.values())
    assert all("BOUQUET_GRACE" in str(reply.error.reason) for reply in given_up.values())
    assert {reply.metadata.src_node_id for reply in given_up.values()} == {3, 4}
    assert [event.client.label for event in run.told.of(events.ReplyLate)] == ["site-3", "site-4"]
    assert len(run.following.too_few) == 0
    run.following.end("subset", "")
    assert "site-3 missed 1 of 1" in run.following.participation.sentence()


def test_a_client_that_hangs_is_waited_for_until_the_deadline(site: Callable[..., Site]) -> None:
    run = site(2, round_deadline=60.0)
    keys = run.send(1, 2)
    assert run.messages[keys[1]].metadata.ttl == 60.0 + CLOCKS_DIFFER_S, "then the client gives it up, too"
    run.pull(keys, run.reply(keys[1]))
    run.now = 61.0
    assert "BOUQUET_ROUND_DEADLINE" in str(run.pull({2: keys[2]})[keys[2]].error.reason)
    assert run.counted == [("site-1", None), ("site-2", run.counted[1][1])]


def test_an_offline_client_is_not_waited_for(site: Callable[..., Site]) -> None:
    run = site(2)
    keys = run.send(1, 2)
    run.pull(keys, run.reply(keys[1]))
    run.online.discard(2)
    run.now = LOOK_S
    assert run.pull({2: keys[2]})[keys[2]].error.reason == "it is offline"


def test_while_all_clients_are_offline_the_phase_waits_for_one(site: Callable[..., Site]) -> None:
    run = site(2, round_deadline=60.0)
    keys = run.send(1, 2)
    run.online.clear()
    run.now = LOOK_S
    assert not run.pull(keys, *(run.reply(keys[node], ErrorCode.NODE_UNAVAILABLE) for node in (1, 2)))
    run.online.add(1)
    run.now = 2 * LOOK_S
    assert not run.pull(keys)
    (again,) = run.following.present(set(keys.values())) - set(keys.values())
    received = run.pull(keys, run.reply(again))
    assert not received[keys[1]].has_error() and received[keys[2]].error.reason == "it is offline"


def test_a_lost_message_is_sent_again_once_and_the_app_does_not_notice(site: Callable[..., Site]) -> None:
    run = site(1, min_replies=1)
    keys = run.send(1)
    run.online.clear()
    assert not run.pull(keys, run.reply(keys[1], ErrorCode.NODE_UNAVAILABLE))
    run.online.add(1)
    run.now = LOOK_S + 1
    assert not run.pull(keys)
    (present,) = run.following.present(set(keys.values()))
    assert present != keys[1] and run.messages[present].metadata.dst_node_id == 1
    received = run.pull(keys, run.reply(present))
    assert received.keys() == {keys[1]} and not received[keys[1]].has_error()
    assert len(run.told.of(events.ClientReturned)) == 1 and run.counted == [("site-1", None)]

    keys = run.send(1)
    run.pull(keys, run.reply(keys[1], ErrorCode.NODE_UNAVAILABLE))
    (present,) = run.following.present(set(keys.values()))
    assert run.pull(keys, run.reply(present, ErrorCode.NODE_UNAVAILABLE))[keys[1]].has_error()


def test_a_run_without_enough_replies_cannot_go_on(site: Callable[..., Site]) -> None:
    run = site(2, min_replies=2)
    keys = run.send(1, 2)
    run.pull(keys, run.reply(keys[1]), run.reply(keys[2]))
    assert len(run.following.too_few) == 0
    keys = run.send(1, 2)
    run.pull(keys, run.reply(keys[1]))
    run.now = 10_000.0
    run.pull({2: keys[2]})
    reason = run.following.too_few
    assert reason == "train 2 has 1 replies of the 2 that it needs (BOUQUET_MIN_REPLIES)"


def test_messages_that_are_sent_one_by_one_are_one_phase(site: Callable[..., Site]) -> None:
    """As in the older style, in threads: some have replied before others are asked."""
    run = site()
    for number in (1, 2):
        for node in (1, 2, 3):
            keys = run.send(node, group=str(number))
            run.pull(keys, run.reply(keys[node]))
    run.following.end("completed", "")
    finished = run.told.of(events.PhaseFinished)
    assert [(each.round, each.accepted) for each in finished] == [(1, 3), (2, 3)]
    assert [each.round for each in run.told.of(events.RoundFinished)] == [1, 2]


def test_a_message_without_an_id_was_not_taken(site: Callable[..., Site]) -> None:
    run = site()
    message = Message(RecordDict(), 1, "train")
    run.following.sent([cast(str, None)], [message])
    assert not run.told.of(events.PhaseStarted)
