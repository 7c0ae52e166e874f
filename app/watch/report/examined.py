"""The model of a run on the server's test split: per class, who is taken for whom, and examples.

Of the data only the server's test split is looked at, and for the division the number of labels. No client's picture gets
into a report.
"""

import hashlib
import io
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from app.errors import UserError
from app.learning.data.store import MANIFEST, Images, Store
from app.models.load import LAST, Trained, of_run
from app.models.predict import probabilities
from app.watch.report.gather import Run
from app.watch.runs import Record

EXAMPLES = 8  # of each kind
LARGEST_SIDE = 96  # pixels of an example


@dataclass(frozen=True)
class Example:
    """A picture of the test split: as a PNG file, what it is, and what the model takes it for."""

    png: bytes
    label: str
    guess: str
    probability: float

    @property
    def is_right(self) -> bool:
        return self.label == self.guess

    @property
    def text(self) -> str:
        """What a reader sees below it, and who cannot see the picture hears."""
        sure = f"{self.probability:.0%}"
        return f"{self.label} ({sure})" if self.is_right else f"{self.label}, taken for {self.guess} ({sure})"


@dataclass
class Examined:
    """What a model and the data store tell beyond the events; ``notes`` say what is missing, and why.

    Attributes:
        confusion: pictures by class (rows) and by what the model takes them for; None where it is unknown.
        labels: training and validation examples by partition (rows) and class; None where it is unknown.
        model_hash: SHA-256 of the model's file.
    """

    classes: list[str] = field(default_factory=list)
    confusion: npt.NDArray[np.int64] | None = None
    examples: list[Example] = field(default_factory=list)
    labels: npt.NDArray[np.int64] | None = None
    test_from: str = ""
    model_hash: str = ""
    notes: list[str] = field(default_factory=list)
    store: Store | None = None

    @property
    def per_class(self) -> list[tuple[str, int, float | None]]:
        """Each class, its pictures in the test split, and how many of them the model knows."""
        if self.confusion is None:
            return []
        totals = self.confusion.sum(1)
        return [
            (name, int(total), float(self.confusion[i, i] / total) if total else None)
            for i, (name, total) in enumerate(zip(self.classes, totals, strict=True))
        ]


def examine(run: Run, data: Path | None, prepared: Path) -> Examined:
    """Look at a run's model and at its data: the store in ``data``, else one of those in ``prepared``."""
    found = Examined(run.classes)
    if not run.is_own:
        found.notes.append("The run is of another app, so its model and data are not looked at.")
        return found
    try:
        found.store = find_store(run.started, data, prepared)
        why = "its data store is not here (--data, BOUQUET_DATA)"
    except UserError as error:
        why = str(error)
    if found.store is None:
        found.notes.append(f"Classes, examples and labels are not shown: {why}.")
    else:
        _count_labels(found, found.store, run)
    try:
        trained = of_run(run.folder, run.started, LAST, whole=False)
    except UserError as error:
        found.notes.append(f"Classes and examples are not shown: {error}.")
        return found
    found.model_hash = hashlib.sha256(trained.file.read_bytes()).hexdigest()
    if found.store is not None:
        _judge(found, trained, found.store)
    return found


def find_store(started: Record, data: Path | None, prepared: Path) -> Store | None:
    """The data store that a run was trained on; None where it is not here.

    Raises:
        UserError: ``data`` is given, and is no store or another one.
    """
    wanted = str(started.get("checksum", ""))
    if data is not None:
        store = Store.open(data)
        if store.manifest.checksum != wanted:
            raise UserError(
                f"BOUQUET_DATA={data} holds other data: its checksum is {store.manifest.checksum[:12]}, "
                f"that of the run is {wanted[:12] or 'unknown'}; give the store that the run was trained on"
            )
        return store
    for manifest in sorted(prepared.glob(f"*/{MANIFEST}")):
        with suppress(UserError):
            store = Store.open(manifest.parent)
            if store.manifest.checksum == wanted:
                return store
    return None


def _count_labels(found: Examined, store: Store, run: Run) -> None:
    """Count the labels of each partition, where the server's division is that of the clients."""
    manifest = store.manifest
    if manifest.partitioner == "none":
        found.notes.append(
            "Each client has data of its own, so the server does not know how its labels are distributed."
        )
        return
    counts = np.zeros((manifest.num_partitions, len(manifest.classes)), np.int64)
    try:
        for i in range(manifest.num_partitions):
            partition = store.partition(i)
            for split in (partition.train, partition.val):
                counts[i] += np.bincount(split.labels, minlength=len(manifest.classes))
    except UserError as error:
        found.notes.append(f"The labels of the partitions are not shown: {error}.")
        return
    found.labels = counts
    if run.started.get("mode") in ("hosts", "kubernetes"):
        found.notes.append(
            "The label distribution is that of the server's own division; a client elsewhere may hold other data."
        )


def _judge(found: Examined, trained: Trained, store: Store) -> None:
    """Have the model look at the test split."""
    try:
        test = store.test
    except UserError as error:
        found.notes.append(f"Classes and examples are not shown: {error}.")
        return
    found.test_from = store.manifest.test_from
    rows = probabilities(trained, test.images)
    guesses = rows.argmax(1)
    count = len(trained.classes)
    found.confusion = np.bincount(test.labels * count + guesses, minlength=count * count).reshape(
        count, count
    )
    sure = rows.max(1)
    if trained.settings.personal_prefixes:
        found.notes.append(
            "The layers that clients keep to themselves are as the run began, as in the server's evaluation."
        )
    if store.manifest.test_from == "partition":
        found.notes.append(
            "The test split is a part of the only partition's data, so none of its pictures are shown."
        )
        return
    for mask in (guesses != test.labels, guesses == test.labels):
        for i in _spread(np.flatnonzero(mask), test.labels, sure):
            found.examples.append(
                Example(
                    _png(test.images[i]),
                    trained.classes[test.labels[i]],
                    trained.classes[guesses[i]],
                    float(sure[i]),
                )
            )


def _spread(
    indices: npt.NDArray[np.int64], labels: npt.NDArray[np.int64], sure: npt.NDArray[np.float64]
) -> list[int]:
    """A few of these pictures: the surest of each class, before the second of any class."""
    ordered = sorted(indices.tolist(), key=lambda i: -sure[i])
    seen: dict[int, int] = {}
    ranked: list[tuple[int, int]] = []
    for place, i in enumerate(ordered):
        label = int(labels[i])
        seen[label] = seen.get(label, 0) + 1
        ranked.append((seen[label] * len(ordered) + place, i))
    return [i for _, i in sorted(ranked)[:EXAMPLES]]


def _png(image: Images) -> bytes:
    from PIL import Image

    picture = Image.fromarray(image[0] if len(image) == 1 else np.moveaxis(image, 0, -1))
    if max(picture.size) > LARGEST_SIDE:
        picture.thumbnail((LARGEST_SIDE, LARGEST_SIDE))
    content = io.BytesIO()
    picture.save(content, "PNG")
    return content.getvalue()
