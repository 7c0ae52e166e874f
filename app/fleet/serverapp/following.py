"""What Bouquet's grid does in the run of any app: it ends a phase by a rule, sends lost messages again, and tells.

An app sends its messages by Flower's grid and asks for the replies, all at once or one at a time and in threads. A phase
here is what it has sent of one type, to each client at most once. Its rule is that of Bouquet's own app (``enough.py``).
Where a phase goes on without a client, the app receives an error in place of the reply, as from a SuperLink that has lost
the client. An app of any style knows what to do with that.

``program.py`` imports this module before the app, and then forgets the package, because the app may have one of its name.
So nothing here is imported late.
"""

import math
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flwr.app import Error, Message
from flwr.common.constant import ErrorCode

from app.environment import AppEnvironment, is_whole, read
from app.fleet.deployment import RunRules
from app.packing.transport import size_of
from app.rounds import events
from app.rounds.enough import CLOCKS_DIFFER_S, Progress, Rule, Verdict, needed, quorum
from app.rounds.participation import Participation
from app.rounds.results import EventLog

LOOK_S = 2.0  # between two questions who is online
LOST = (ErrorCode.NODE_UNAVAILABLE, ErrorCode.REPLY_MESSAGE_UNAVAILABLE)
OFFLINE = "it is offline"
MB = 1_000_000


@dataclass
class Phase:
    """Messages of one type, to each client at most once.

    Attributes:
        kind: their type, ``train``, ``evaluate`` or another.
        group: the app's own name for them; the round, in the older style.
        round: counted from 1.
        begun: when the first one was sent, and ``latest`` when the last.
        open: nodes without a reply.
        good: when each usable reply came, by node.
        failed: nodes whose reply is an error.
        late: nodes that the phase went on without.
        one_by_one: whether each was sent by itself. Then nobody knows whether there is another.
    """

    kind: str
    group: str
    round: int
    begun: float
    latest: float = 0.0
    asked: set[int] = field(default_factory=set)
    open: set[int] = field(default_factory=set)
    good: dict[int, float] = field(default_factory=dict)
    failed: set[int] = field(default_factory=set)
    late: set[int] = field(default_factory=set)
    ended: float = 0.0
    bytes_down: int = 0
    bytes_up: int = 0
    one_by_one: bool = True

    def progress(self, now: float, alive: set[int] | None) -> Progress:
        """This phase as a rule sees it. The time runs from the latest message."""
        replied = {node: max(came - self.latest, 0.0) for node, came in self.good.items()}
        here = None if alive is None else alive & self.asked
        return Progress(self.asked, replied, now - self.latest, self.failed | self.late, here)


@dataclass
class Sent:
    """A message without a reply.

    Attributes:
        key: the id that the app knows; ``present`` is that of the message that is under way for it.
        lost: whether the client has lost it; it is sent again when the client is online.
    """

    key: str
    present: str
    message: Message
    phase: Phase
    at: float
    size: int
    lost: bool = False
    again: bool = False
    awaited: bool = False  # the app has asked for its reply

    @property
    def node(self) -> int:
        """Whom it was sent to."""
        return int(self.message.metadata.dst_node_id)


class Lines:
    """The events of a run that people want to follow, as lines."""

    def take(self, event: events.Event, record: dict[str, Any]) -> None:
        """Print the event's line, if it has one."""
        match event:
            case events.PhaseFinished():
                asked = event.accepted + event.rejected + event.late
                print(
                    f"{event.phase} {event.round}: {event.accepted} of {asked} replies, {event.seconds:.1f} s, "
                    f"{event.bytes_down / MB:.1f} MB down, {event.bytes_up / MB:.1f} MB up",
                    flush=True,
                )
            case events.ClientLost():
                print(f"{event.phase} {event.round}: {event.client.label} is offline", flush=True)
            case events.ClientReturned():
                print(
                    f"{event.phase} {event.round}: {event.client.label} is back, and asked again", flush=True
                )


class Following:
    """The messages of one run.

    Args:
        run: name of the run, for its events.
        sinks: take them.
        rules: when a phase has enough replies.
        resend: sends a message; its id.
        online: the nodes that are.
        name_of: what a node is called.
        counted: called with each client's name, and with why its reply is none, or None.
    """

    def __init__(
        self,
        run: str,
        sinks: list[events.Sink],
        rules: RunRules,
        *,
        resend: Callable[[Message], str],
        online: Callable[[], set[int]],
        name_of: Callable[[int], str],
        counted: Callable[[str, str | None], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.participation = Participation({}, 0)
        self.too_few = ""  # why the run cannot go on
        self._stream = events.Stream(run, [*sinks, self])
        self._rules, self._resend, self._online = rules, resend, online
        self._name_of, self._counted, self._clock = name_of, counted, clock
        self._lock = threading.RLock()
        self._open: dict[str, Sent] = {}  # by the id that the app knows
        self._phases: list[Phase] = []  # those that are not told to be over
        self._number, self._kinds = 0, Counter[str]()
        self._round_begun = self._begun = self._looked = clock()
        self._alive: set[int] | None = None
        self._trained: dict[str, int] = {}
        self._bytes = {"down": 0, "up": 0}

    # -- what is told ---------------------------------------------------------------------------

    def take(self, event: events.Event, record: dict[str, Any]) -> None:
        """Count the rounds that each client missed. An app may ask whom it likes."""
        self.participation.take(event)
        self.participation.all_train = False

    def begin(self, flower_run: str, settings: Mapping[str, Any]) -> None:
        """The app is about to be loaded."""
        mode = read(AppEnvironment).mode
        self._stream.emit(events.RunStarted(flower_run, mode, "", "", [], [], dict(settings), {}))

    def give_up_rest(self, reason: str) -> None:
        """The app has ended, and no longer waits for what it has asked for."""
        with self._lock:
            for sent in [sent for sent in self._open.values() if sent.awaited]:
                self._settle(sent, None, reason)
            for phase in list(self._phases):
                self._finish(phase)
            self._finish_round()

    def end(self, status: str, reason: str) -> None:
        """The app has ended, so or otherwise."""
        self.give_up_rest(reason or status)
        seconds, said = self._clock() - self._begun, self.participation.sentence()
        self._stream.emit(
            events.RunFinished(status, self._number, seconds, reason=reason, participation=said)
        )

    @property
    def has_rounds(self) -> bool:
        """Whether the app has asked anybody for anything."""
        return bool(self.participation.rounds)

    def told(self) -> dict[str, Any]:
        """What the summary says of the clients."""
        share = max(1, len(self.participation.missed)) * max(1, self._number)
        return {
            "participation": self.participation.sentence(),
            "num_clients": len(self.participation.missed),
            "rounds": self._number,
            "rounds_missed": self.participation.missed,
            "bytes_per_client_and_round": {way: round(count / share) for way, count in self._bytes.items()},
        }

    def _client(self, node: int) -> events.Client:
        return events.Client(node, name=self._name_of(node))

    # -- sending --------------------------------------------------------------------------------

    def limit(self, messages: Iterable[Message]) -> None:
        """Let clients give up messages whose replies would come too late, however long they go on."""
        longest = self._rules.round_deadline + CLOCKS_DIFFER_S
        for message in messages:
            message.metadata.ttl = min(message.metadata.ttl, longest)

    def sent(self, keys: list[str], messages: list[Message]) -> None:
        """The app has sent these; ``keys`` are their ids, an empty one of a message that was not taken."""
        with self._lock:
            started: dict[int, tuple[Phase, list[int]]] = {}
            for key, message in zip(keys, messages, strict=True):
                if key:
                    phase = self._phase_of(message)
                    node = int(message.metadata.dst_node_id)
                    phase.asked.add(node)
                    phase.open.add(node)
                    phase.latest = self._clock()
                    phase.one_by_one &= len(messages) == 1
                    size = size_of(message)
                    phase.bytes_down += size
                    self._open[key] = Sent(key, key, message, phase, phase.latest, size)
                    started.setdefault(id(phase), (phase, []))[1].append(node)
            for phase, nodes in started.values():
                clients = [self._client(node) for node in nodes]
                self._stream.emit(events.PhaseStarted(phase.round, phase.kind, clients))

    def _phase_of(self, message: Message) -> Phase:
        """The phase that a message belongs to: the latest, or a new one."""
        kind, group = message.metadata.message_type, message.metadata.group_id
        latest = self._phases[-1] if self._phases else None
        if (
            latest
            and (latest.kind, latest.group) == (kind, group)
            and message.metadata.dst_node_id not in latest.asked
        ):
            return latest
        for phase in [phase for phase in self._phases if not phase.open]:
            self._finish(phase)
        self._kinds[kind] += 1
        number = int(group) if is_whole(group) and int(group) else self._kinds[kind]
        if number > self._number:
            self._finish_round()
            self._number = number
        phase = Phase(kind, group, number, self._clock())
        self._phases.append(phase)
        return phase

    def present(self, keys: set[str]) -> set[str]:
        """The ids of what is under way for the messages that the app asks for."""
        with self._lock:
            for key in keys:
                if key in self._open:
                    self._open[key].awaited = True
            return {self._open[key].present if key in self._open else key for key in keys}

    # -- replies --------------------------------------------------------------------------------

    def replies(self, asked: set[str], came: Iterable[Message]) -> tuple[list[Message], list[str]]:
        """What the app receives of what has come, with errors in place of replies that are not waited for any more.

        Returns:
            The messages, and the ids of what nobody waits for.
        """
        with self._lock:
            passed = [reply for reply in came if self._receive(reply)]
            given_up = self._look(asked)
            return passed + [reply for _, reply in given_up], [sent.present for sent, _ in given_up]

    def _receive(self, reply: Message) -> bool:
        """Take a reply; whether the app receives it."""
        present = reply.metadata.reply_to_message_id
        sent = next((each for each in self._open.values() if each.present == present), None)
        if sent is None:
            return True
        if reply.has_error() and reply.error.code in LOST and not sent.again and not sent.lost:
            sent.lost = True
            self._stream.emit(events.ClientLost(sent.phase.round, sent.phase.kind, self._client(sent.node)))
            self._looked = -math.inf  # it may be back
            return False
        reply.metadata.__dict__["_reply_to_message_id"] = sent.key
        self._settle(sent, reply)
        return True

    def _settle(self, sent: Sent, reply: Message | None, reason: str = "") -> None:
        """A message has its reply; ``reason`` is why the phase goes on without the client's own."""
        phase, client, now = sent.phase, self._client(sent.node), self._clock()
        del self._open[sent.key]
        phase.open.discard(sent.node)
        phase.ended = now
        failure = reason or None
        if reply is not None and reply.has_error():
            failure = reply.error.reason or "no reason given"
        self._counted(client.label, failure)
        if reason or reply is None:
            phase.late.add(sent.node)
            self._stream.emit(events.ReplyLate(phase.round, phase.kind, client, reason))
        elif failure is not None:
            phase.failed.add(sent.node)
            self._stream.emit(events.ReplyRejected(phase.round, phase.kind, client, failure[:300]))
        else:
            size = size_of(reply)
            phase.good[sent.node] = now
            phase.bytes_up += size
            number = _examples(reply)
            self._stream.emit(
                events.ReplyAccepted(
                    phase.round, phase.kind, client, number, None, None, now - sent.at, sent.size, size, ""
                )
            )
        if not phase.open and not phase.one_by_one:
            self._finish(phase)

    def _look(self, asked: set[str]) -> list[tuple[Sent, Message]]:
        """Ask who is online, send lost messages again, and end the phases that have enough."""
        now = self._clock()
        if self._open and now - self._looked >= LOOK_S:
            self._alive, self._looked = self._online(), now
            for sent in [sent for sent in self._open.values() if sent.lost and sent.node in self._alive]:
                self._send_again(sent)
        given_up = []
        awaited = {id(each.phase): each.phase for key in asked if (each := self._open.get(key))}
        for phase in awaited.values():
            verdict = self._rule(phase)(phase.progress(now, self._alive))
            if verdict is Verdict.WAIT:
                continue
            for sent in [sent for sent in self._open.values() if sent.phase is phase and sent.key in asked]:
                given_up.append((sent, self._give_up(sent)))
        return given_up

    def _least(self, phase: Phase) -> int:
        given = self._rules.min_replies
        return 0 if given is None else needed(given, len(phase.asked))

    def _rule(self, phase: Phase) -> Rule:
        grace = math.inf if self._rules.min_replies is None else self._rules.grace
        least = self._least(phase)
        if not least and not phase.failed and not (self._alive or set()) - phase.asked:
            least = 1  # while all clients are offline, the phase waits for one to be back
        return quorum(least, self._rules.round_deadline, grace)

    def _send_again(self, sent: Sent) -> None:
        old = sent.message
        sent.message = Message(
            old.content, old.metadata.dst_node_id, old.metadata.message_type,
            ttl=old.metadata.ttl, group_id=old.metadata.group_id,
        )  # fmt: skip
        if present := self._resend(sent.message):
            sent.present, sent.lost, sent.again = present, False, True
            sent.phase.bytes_down += sent.size
            client = self._client(sent.node)
            self._stream.emit(events.ClientReturned(sent.phase.round, sent.phase.kind, client))

    def _give_up(self, sent: Sent) -> Message:
        """The error that the app receives in place of a reply."""
        online = not sent.lost and (self._alive is None or sent.node in self._alive)
        seconds = self._clock() - sent.at
        reason = (
            f"no reply within {seconds:.1f} s (BOUQUET_ROUND_DEADLINE, BOUQUET_GRACE)" if online else OFFLINE
        )
        reply = Message(Error(ErrorCode.NODE_UNAVAILABLE, reason), reply_to=sent.message)
        reply.metadata.__dict__["_reply_to_message_id"] = sent.key
        self._settle(sent, reply, reason)
        return reply

    # -- ends -----------------------------------------------------------------------------------

    def _finish(self, phase: Phase) -> None:
        self._phases.remove(phase)
        if not phase.asked - phase.open:
            return  # the app did not wait for it
        if len(phase.good) < self._least(phase) and not self.too_few:
            self.too_few = (
                f"{phase.kind} {phase.round} has {len(phase.good)} replies of the {self._least(phase)} that it needs "
                "(BOUQUET_MIN_REPLIES)"
            )
        self._bytes["down"] += phase.bytes_down
        self._bytes["up"] += phase.bytes_up
        self._trained[phase.kind] = len(phase.good)
        self._stream.emit(
            events.PhaseFinished(
                phase.round,
                phase.kind,
                accepted=len(phase.good),
                rejected=len(phase.failed),
                late=len(phase.late),
                seconds=(phase.ended or self._clock()) - phase.begun,
                bytes_down=phase.bytes_down,
                bytes_up=phase.bytes_up,
            )
        )

    def _finish_round(self) -> None:
        """The round so far is over. Its loss and accuracy are the app's own affair."""
        if not self._number:
            return
        now, nothing = self._clock(), math.nan
        trained, evaluated = self._trained.get("train", 0), self._trained.get("evaluate", 0)
        self._trained = {}
        self._stream.emit(
            events.RoundFinished(
                self._number,
                0,
                now - self._round_begun,
                nothing,
                nothing,
                None,
                None,
                trained,
                evaluated,
                None,
                None,
            )
        )
        self._round_begun = now


def follow(folder: Path, **functions: Any) -> Following:
    """The messages of the run whose results are in ``folder``; ``functions`` as :class:`Following` takes them."""
    return Following(folder.name, [EventLog(folder), Lines()], read(RunRules), **functions)


def _examples(reply: Message) -> int:
    """How many examples a reply says that it stands for; 0 where it does not."""
    for metrics in reply.content.metric_records.values():
        if isinstance(number := metrics.get("num-examples"), int) and number >= 0:
            return number
    for name, metrics in reply.content.metric_records.items():  # the older style
        if re.fullmatch(r"(fit|evaluate)res\.num_examples", name):
            return int(next(iter(metrics.values()), 0))  # type: ignore[arg-type]
    return 0
