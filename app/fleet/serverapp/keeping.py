"""``bouquet.keep``: what Bouquet's own rounds have, for a strategy of Flower's in another app's ServerApp.

Flower's ``Strategy.start`` runs rounds 1 to N and asks the strategy what to do in each. ``keep`` answers in the
strategy's place for the rounds that an earlier run of the same app has finished: nobody is asked, and what came of them is
there at once. So the app, its ``start`` and its ``Result`` stay as they are.

Read in flwr 1.39.0: ``serverapp/strategy/strategy.py``, ``serverapp/strategy/fedavg.py``.
"""

import csv
import hashlib
import io
import json
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from inspect import signature
from pathlib import Path
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from app.environment import AppEnvironment, read
from app.errors import UserError
from app.files import write_atomically
from app.packing.arrays import ARRAYS
from app.rounds.phases import OrderedGrid
from app.rounds.results import BEST_MODEL, HISTORY, MODEL, Summary, finite, model_bytes
from app.rounds.screening import METRICS, read_client_names, screen
from app.rounds.state import resume
from app.rounds.state.checkpoints import FOLDER, Checkpoints
from app.rounds.state.run import Experiment, RunState

TRAIN, EVALUATE, SERVER = "train", "evaluate", "server"
_HASHED = 1 << 20  # bytes of each array that tell two replies apart

Metrics = dict[str, dict[str, dict[str, Any]]]  # by phase, round and name


@dataclass
class Kept:
    """One strategy's rounds.

    Attributes:
        strategy: the app's.
        folder: the run's results.
        experiment: what must be the same in a run that goes on.
        best_by: the metric that decides which model is the best; empty for the first that is an accuracy or a loss.
    """

    strategy: Strategy
    folder: Path
    experiment: Experiment
    names: Callable[[], Mapping[int, str]]
    best_by: str = ""
    state: RunState = field(init=False)
    done: int = 0  # rounds of an earlier run
    _rounds: int = 0
    _latest: int = 0  # the round that is under way
    _begun: float = 0.0
    _sent: ArrayRecord | None = None

    def __post_init__(self) -> None:
        self.state = RunState(
            0, ArrayRecord(), self.strategy, Summary(run=self.folder.name), experiment=self.experiment
        )

    def attach(self) -> None:
        """Take the strategy's place where Flower asks it."""
        strategy: Any = self.strategy
        self._start, self._configure = strategy.start, {TRAIN: strategy.configure_train}
        self._configure[EVALUATE] = strategy.configure_evaluate
        self._aggregate_train, self._aggregate_evaluate = (
            strategy.aggregate_train,
            strategy.aggregate_evaluate,
        )
        strategy.start, strategy.configure_train = self.start, self.configure_train
        strategy.configure_evaluate = self.configure_evaluate
        strategy.aggregate_train, strategy.aggregate_evaluate = self.aggregate_train, self.aggregate_evaluate

    @property
    def metrics(self) -> Metrics:
        """What the strategy and the app made of each round."""
        return self.state.summary.metrics

    # -- in Flower's place ----------------------------------------------------------------------

    def start(self, *args: Any, **kwargs: Any) -> Any:
        """``Strategy.start`` from where an earlier run was cut off."""
        given = signature(self._start).bind(*args, **kwargs)
        given.apply_defaults()
        arguments = given.arguments
        self._rounds = int(arguments.get("num_rounds", 0))
        self.state.arrays = arguments["initial_arrays"]
        self._find()
        arguments["initial_arrays"] = self.state.arrays
        if (evaluate := arguments.get("evaluate_fn")) is not None:
            arguments["evaluate_fn"] = lambda number, arrays: self._evaluated(evaluate, number, arrays)
        result = self._start(*given.args, **given.kwargs)
        self._finish()
        return result

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Finish the round before and begin this one; nobody is asked in one that is done."""
        if server_round <= self.done:
            return []
        self._finish()
        self._latest, self._begun, self._sent = server_round, time.monotonic(), arrays
        return self._configured(TRAIN, server_round, arrays, config, grid)

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """As :meth:`configure_train`."""
        return (
            []
            if server_round <= self.done
            else self._configured(EVALUATE, server_round, arrays, config, grid)
        )

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """The average of the replies that can be right, always summed in the same order."""
        if server_round <= self.done:
            arrays = self.state.arrays if server_round == self.done else None
            return arrays, self._told(TRAIN, server_round)
        arrays, metrics = self._aggregate_train(server_round, self._screened(_ordered(replies)))
        if arrays is not None:
            self.state.arrays = arrays
        self._note(TRAIN, server_round, metrics)
        return arrays, metrics

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """The strategy's mean of the clients' metrics."""
        if server_round <= self.done:
            return self._told(EVALUATE, server_round)
        metrics: MetricRecord | None = self._aggregate_evaluate(server_round, _ordered(replies))
        self._note(EVALUATE, server_round, metrics)
        return metrics

    def _evaluated(
        self, evaluate: Callable[[int, ArrayRecord], MetricRecord | None], number: int, arrays: ArrayRecord
    ) -> MetricRecord | None:
        if self.done and number <= self.done:
            return self._told(SERVER, number)
        metrics = evaluate(number, arrays)
        self._note(SERVER, number, metrics)
        return metrics

    def _configured(
        self, phase: str, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        ordered = OrderedGrid(grid)  # the choice of clients is the same when the round is run again
        ordered.draw = f"{self.experiment.settings.get('seed', 0)}/{server_round}/{phase}"
        return list(self._configure[phase](server_round, arrays, config, ordered))

    # -- replies --------------------------------------------------------------------------------

    def _screened(self, replies: list[Message]) -> list[Message]:
        """Those that can go into an average; replies of another form than Flower's own are left to the strategy."""
        usual = [reply for reply in replies if _is_usual(reply)]
        others = [reply for reply in replies if not _is_usual(reply)]
        if self._sent is None or not usual:
            return replies
        found = screen(usual, self._sent, seen_examples=self.state.seen_examples, names=self.names())
        for rejection in found.rejected:
            self.state.summary.failures.append(
                {
                    "round": self._latest,
                    "phase": TRAIN,
                    "client": rejection.client,
                    "reason": rejection.reason,
                }
            )
        return [*found.accepted, *others]

    # -- what is kept ---------------------------------------------------------------------------

    def _note(self, phase: str, number: int, metrics: MetricRecord | None) -> None:
        if metrics is not None:
            self.metrics.setdefault(phase, {})[str(number)] = dict(metrics)

    def _told(self, phase: str, number: int) -> MetricRecord | None:
        found = self.metrics.get(phase, {}).get(str(number))
        return None if found is None else MetricRecord(found)

    def _finish(self) -> None:
        """The round that was under way is over: keep it."""
        if not self._latest:
            return
        state, number = self.state, self._latest
        state.round, self._latest = number, 0
        state.summary.rounds = number
        state.summary.round_s.append(round(time.monotonic() - self._begun, 3))
        is_best = self._judge(number)
        model = model_bytes(state.arrays)
        try:
            write_atomically(self.folder / MODEL, model)
            if is_best:
                write_atomically(self.folder / BEST_MODEL, model)
            Checkpoints(self.folder).save(state, model)
            write_atomically(self.folder / HISTORY, self._history())
            write_atomically(self.folder / "report.json", self._report())
        except OSError as error:
            print(f"warning: results cannot be written ({error}); training goes on", flush=True)
            return
        print(f"round {number}/{self._rounds}  kept", flush=True)

    def _judge(self, number: int) -> bool:
        """Whether the model of this round is the best so far, by the server's metric or else the clients'."""
        for phase in (SERVER, EVALUATE, TRAIN):
            for name, value in self.metrics.get(phase, {}).get(str(number), {}).items():
                wanted = name == self.best_by if self.best_by else "acc" in name or "loss" in name
                if wanted and isinstance(value, int | float):
                    return self._is_better(number, name, float(value))
        return False

    def _is_better(self, number: int, name: str, value: float) -> bool:
        best = self.state.summary.best
        sign = -1 if "loss" in name else 1
        if best is not None and best["metric"] == name and not sign * value > sign * best["value"]:
            return False
        self.state.summary.best = {"round": number, "metric": name, "value": value}
        return True

    def _history(self) -> bytes:
        text = io.StringIO(newline="")
        rows = csv.writer(text)
        rows.writerow(("round", "phase", "metric", "value"))
        for phase, by_round in self.metrics.items():
            for number, metrics in by_round.items():
                rows.writerows((number, phase, name, value) for name, value in metrics.items())
        return text.getvalue().encode()

    def report(self) -> dict[str, Any]:
        """What came of the rounds so far."""
        told = asdict(self.state.summary)
        return {
            name: told[name] for name in ("rounds", "round_s", "metrics", "best", "resumed_from", "failures")
        }

    def _report(self) -> bytes:
        return json.dumps(finite({"schema_version": 1, **self.report()}), indent=2).encode() + b"\n"

    def _find(self) -> None:
        """Go on from the newest checkpoint of the same app with the same settings, whose run did not end."""
        self.folder.mkdir(parents=True, exist_ok=True)
        resume.lock(self.folder)
        for checkpoint in resume.unended(self.folder.parent, self.experiment):
            try:
                state = RunState.load(checkpoint, self.strategy)
            except UserError as error:
                print(f"warning: {error}", flush=True)
                continue
            self.state, self.done = state, state.round
            state.experiment, state.summary.run = self.experiment, self.folder.name
            state.summary.resumed_from.append(state.round)
            self._take_over(checkpoint.parent.parent)
            print(f"goes on after round {state.round} from {checkpoint}", flush=True)
            return

    def _take_over(self, before: Path) -> None:
        """Have the models and checkpoints of the run in the folder ``before``, which nobody goes on with a second time."""
        if before == self.folder:
            return
        for name in (MODEL, BEST_MODEL):
            if (before / name).exists():
                write_atomically(self.folder / name, (before / name).read_bytes())
        (before / FOLDER).rename(self.folder / FOLDER)


def _ordered(replies: Iterable[Message]) -> list[Message]:
    """Replies in an order that does not hang on which came first: a sum of rounded numbers does."""
    return sorted(replies, key=_content)


def _is_usual(reply: Message) -> bool:
    """Whether a reply holds a model and its metrics under the names that Flower's strategies have by themselves."""
    return (
        reply.has_content()
        and ARRAYS in reply.content.array_records
        and METRICS in reply.content.metric_records
    )


def _content(reply: Message) -> str:
    if not reply.has_content():
        return ""
    told = repr([sorted(record.items()) for _, record in sorted(reply.content.metric_records.items())])
    digest = hashlib.sha256(told.encode())
    for _, record in sorted(reply.content.array_records.items()):
        for name in sorted(record):
            digest.update(record[name].data[:_HASHED])
    return digest.hexdigest()


@dataclass
class Place:
    """Where a run's results go, and which app it is; ``program.py`` knows.

    Attributes:
        folder: of the run.
        app: hash of the bundle.
        kept: the strategies of this process.
    """

    folder: Path | None = None
    app: str = ""
    kept: list[Kept] = field(default_factory=list)


PLACE = Place()


def keep(strategy: Strategy, context: Context, *, best_by: str = "") -> Strategy:
    """Let a run of this strategy go on where it was cut off, and keep what comes of each round.

    After each round the model, the best model, a checkpoint, ``history.csv`` and ``report.json`` are in the run's folder. A
    run of the same app with the same run config that was cut off goes on after its last round. Replies that cannot be right
    are left out of the average.

    Args:
        strategy: any of Flower's Message API. What a class of your own remembers between rounds is not kept.
        context: the ServerApp's.
        best_by: name of the metric that chooses the best model: the most, or of a name with ``loss`` in it the least. Empty
            for the first one that is called an accuracy or a loss, of the server, else of the clients.

    Returns:
        The same strategy.
    """
    found = read(AppEnvironment)
    name = found.run or f"{time.strftime('%Y%m%d-%H%M%S')}-{str(context.run_id)[-6:]}"
    folder = PLACE.folder or (found.results / name).absolute()
    experiment = Experiment(dict(context.run_config), PLACE.app)
    kept = Kept(strategy, folder, experiment, lambda: read_client_names(found.members), best_by)
    kept.attach()
    PLACE.kept.append(kept)
    return strategy
