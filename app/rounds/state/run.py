"""The state of a run between two rounds: one object, which can be saved and loaded.

Which clients take part follows from the seed and the round (``OrderedGrid``), and clients seed each round by its number.
The key of the privacy noise is part of the strategy's state. So a run that is loaded goes on bit for bit.
"""

import hashlib
import json
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from flwr.app import ArrayRecord
from flwr.serverapp.strategy import Strategy
from safetensors.numpy import load, save

from app.errors import UserError
from app.files import PRIVATE, sync_folder, write_atomically
from app.packing.arrays import to_record
from app.rounds.results import Summary, model_bytes
from app.rounds.state.strategy import add_releases, restore_strategy, strategy_state

MODEL, STRATEGY, STATE, SUMS = "model.safetensors", "strategy.safetensors", "state.json", "SHA256SUMS"


@dataclass(frozen=True)
class Experiment:
    """What makes a run the run that it is: another one of these is another run.

    Attributes:
        settings: all run settings.
        app: SHA-256 of the app's bundle; empty where Flower does not tell.
        data: checksum of the prepared data on the server.
    """

    settings: Mapping[str, Any] = field(default_factory=dict)
    app: str = ""
    data: str = ""


@dataclass
class RunState:
    """A run after a round.

    Attributes:
        round: the last round that is finished; 0 before the first.
        arrays: the global model.
        strategy: what it remembers is part of the state.
        summary: the results so far.
        seen_examples: training examples that each node last gave, by node id.
        partition_of: partition id of each node, as far as known.
        clients: clients that were connected when its last round began; 0 before the first.
        repeated: training phases that were run and then lost with the server. What they released is spent.
        experiment: what the run is made from.
    """

    round: int
    arrays: ArrayRecord
    strategy: Strategy
    summary: Summary
    seen_examples: dict[int, int] = field(default_factory=dict)
    partition_of: dict[int, int] = field(default_factory=dict)
    clients: int = 0
    repeated: int = 0
    experiment: Experiment = field(default_factory=Experiment)

    def save(self, folder: Path, model: bytes | None = None) -> int:
        """Write the state to ``folder``, which never holds half of one; the bytes written. Raises OSError.

        ``model``: the global model as a safetensors file, where it is made already.

        A crash at the very end can leave the state of before under ``.<name>.before``.
        """
        arrays, numbers = strategy_state(self.strategy)
        content = {
            "round": self.round,
            # A safetensors file has an order of its own, and strategies pair arrays by theirs.
            "names": list(self.arrays),
            "strategy-names": list(arrays),
            "strategy": numbers,
            "summary": asdict(self.summary),
            "seen-examples": {str(node): count for node, count in self.seen_examples.items()},
            "partition-of": {str(node): partition for node, partition in self.partition_of.items()},
            "clients": self.clients,
            "repeated": self.repeated,
            "experiment": asdict(self.experiment),
        }
        files = {
            MODEL: model_bytes(self.arrays) if model is None else model,
            STRATEGY: save(arrays),  # with the key of the privacy noise
            STATE: json.dumps(content, indent=1).encode(),
        }
        aside = folder.with_name(f".{folder.name}.partial")
        shutil.rmtree(aside, ignore_errors=True)
        try:
            aside.mkdir(parents=True)
            for name, data in files.items():
                write_atomically(aside / name, data, PRIVATE if name == STRATEGY else None)
            sums = "".join(f"{hashlib.sha256(data).hexdigest()}  {name}\n" for name, data in files.items())
            write_atomically(aside / SUMS, sums.encode())
            _put(aside, folder)
        except OSError:
            shutil.rmtree(aside, ignore_errors=True)  # a full disk needs the space
            raise
        return sum(map(len, files.values())) + len(sums)

    def count_repeated(self, told: Iterable[Mapping[str, Any]]) -> None:
        """Count what later rounds, which are run again, have released already; ``told`` are the events of the run."""
        lost = sum(
            each.get("event") == "phase_finished"
            and each.get("phase") == "train"
            and each["round"] > self.round
            for each in told
        )
        self.repeated += lost
        add_releases(self.strategy, {"": lost})

    @classmethod
    def load(cls, folder: Path, strategy: Strategy) -> "RunState":
        """The state in ``folder``; ``strategy``, fresh and of the same settings, takes over what was remembered.

        Raises:
            UserError: the folder holds no whole state.
        """
        files = whole_files(folder)
        content: dict[str, Any] = json.loads(files[STATE])
        remembered = load(files[STRATEGY])
        ordered = {name: remembered[name] for name in content["strategy-names"]}
        restore_strategy(strategy, ordered, content["strategy"])
        model = load(files[MODEL])
        return cls(
            round=content["round"],
            arrays=to_record({name: model[name] for name in content["names"]}),
            strategy=strategy,
            summary=Summary(**content["summary"]),
            seen_examples={int(node): count for node, count in content["seen-examples"].items()},
            partition_of={int(node): partition for node, partition in content["partition-of"].items()},
            clients=content["clients"],
            repeated=content["repeated"],
            experiment=Experiment(**content["experiment"]),
        )


def read_experiment(folder: Path) -> Experiment:
    """What the run in a checkpoint is made from. Raises UserError where the folder holds no whole state."""
    return Experiment(**json.loads(whole_files(folder)[STATE])["experiment"])


def told_experiment(folder: Path) -> Experiment | None:
    """What a checkpoint says that it is made from, without a look at its model; None where that cannot be read."""
    try:
        return Experiment(**json.loads((folder / STATE).read_bytes())["experiment"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def whole_files(folder: Path) -> dict[str, bytes]:
    """The files of a state whose checksums are right. Raises UserError where one is missing or damaged."""
    try:
        sums = [line.split("  ", 1) for line in (folder / SUMS).read_text().splitlines()]
        files = {name: (folder / name).read_bytes() for _, name in sums}
    except (OSError, ValueError) as error:
        raise UserError(f"{folder} holds no state of a run ({error}); give another folder") from None
    for expected, name in sums:
        if hashlib.sha256(files[name]).hexdigest() != expected:
            raise UserError(f"{folder / name} is damaged: its checksum differs; give an older state")
    if {MODEL, STRATEGY, STATE} - files.keys():
        raise UserError(f"{folder} holds no whole state of a run; give another folder")
    return files


def _put(aside: Path, folder: Path) -> None:
    """Rename ``aside`` to ``folder``, in the place of one that is there already."""
    before = folder.with_name(f".{folder.name}.before")
    if folder.exists():
        shutil.rmtree(before, ignore_errors=True)
        folder.rename(before)
    aside.rename(folder)
    sync_folder(folder.parent)
    shutil.rmtree(before, ignore_errors=True)
