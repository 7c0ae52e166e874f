"""Who took part in a run: counted from its events, and said in one sentence."""

from app.rounds import events

NAMED = 5  # clients that the sentence names


class Participation:
    """Counts the rounds that each client missed.

    A client misses a round when a reply that was wanted of it is not used, in training or evaluation. Where all clients
    train in each round, one that was not there to be asked has missed it too.

    Attributes:
        missed: rounds missed of each client that is known by a name or a partition id.
        rounds: rounds that are finished.
        wanted: clients that the run wants.
        all_train: whether every client trains in every round.
    """

    def __init__(self, missed: dict[str, int], rounds: int) -> None:
        self.missed, self.rounds, self.wanted, self.all_train = missed, rounds, 0, True
        self._when = ""
        self._asked: dict[str, set[int]] = {}
        self._served: dict[str, set[int]] = {}
        self._label: dict[int, str] = {}

    def take(self, event: events.Event) -> None:
        """Count one event."""
        match event:
            case events.RunStarted():
                self.wanted = int(event.settings.get("min-available-nodes", 0))
                self.all_train = event.settings.get("fraction-train", 1.0) >= 1
            case events.ClientsConnected():
                self.wanted = max(self.wanted, len(event.clients))
                self._note(event.clients)
            case events.PhaseStarted():
                self._asked.setdefault(event.phase, set()).update(each.node_id for each in event.clients)
                self._note(event.clients)
            case events.ReplyAccepted():
                self._served.setdefault(event.phase, set()).add(event.client.node_id)
                self._note([event.client])
            case events.RoundFinished():
                self._settle()
            case events.ModelEvaluated():
                self.all_train, self._when = False, "in the evaluation"
                self._settle()

    @property
    def total(self) -> int:
        """The clients that there are, or should be."""
        return max(self.wanted, len(self.missed))

    @property
    def is_complete(self) -> bool:
        """Whether nobody missed anything."""
        return len(self.missed) == self.total and not any(self.missed.values())

    def sentence(self) -> str:
        """For people."""
        if not self.rounds:
            return "no round was finished"
        full = sum(not count for count in self.missed.values())
        when = self._when or ("in every round" if self.all_train else "whenever they were asked")
        parts = [f"{full} of {self.total} clients took part {when}"]
        ranked = sorted((-count, label) for label, count in self.missed.items() if count)
        parts += [f"{label} missed {-count} of {self.rounds}" for count, label in ranked[:NAMED]]
        if len(ranked) > NAMED:
            parts.append(f"{len(ranked) - NAMED} more missed some")
        if absent := self.total - len(self.missed):
            parts.append(f"{absent} never took part")
        return "; ".join(parts)

    def _note(self, clients: list[events.Client]) -> None:
        """Learn what a client is called; one with neither name nor partition id cannot be told from its next self."""
        self._label |= {c.node_id: c.label for c in clients if c.name or c.partition_id is not None}

    def _settle(self) -> None:
        self.rounds += 1
        for label in set(self._label.values()) - self.missed.keys():
            self.missed[label] = self.rounds - 1 if self.all_train else 0
        lost: set[str] = set()
        for phase, asked in self._asked.items():
            served = {self._label[node] for node in self._served.get(phase, ())}
            lost |= {self._label[node] for node in asked & self._label.keys()} - served
        if self.all_train:
            lost |= self.missed.keys() - {self._label[node] for node in self._served.get("train", ())}
        for label in lost:
            self.missed[label] += 1
        self._asked, self._served = {}, {}
