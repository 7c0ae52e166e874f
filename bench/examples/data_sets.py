"""Stand-ins for the hub's data sets that examples train on: the same names, columns and kinds of values, made up.

What is measured is the federation, so a stand-in is small and says nothing about accuracy.
"""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

ROWS = {"train": 600, "test": 200}
Columns = Callable[[int, np.random.Generator], dict[str, Any]]


def _pictures(name: str, size: int, mode: str) -> Columns:
    def make(count: int, rng: np.random.Generator) -> dict[str, Any]:
        from PIL import Image

        labels = np.arange(count) % 10
        shape = (count, size, size) if mode == "L" else (count, size, size, 3)
        pixels = (rng.integers(0, 128, shape) + labels.reshape(-1, *[1] * (len(shape) - 1)) * 12).astype(
            np.uint8
        )
        return {name: [Image.fromarray(each) for each in pixels], "label": labels}

    return make


def _iris(count: int, rng: np.random.Generator) -> dict[str, Any]:
    species = np.arange(count) % 3
    columns = ("petal_length", "petal_width", "sepal_length", "sepal_width")
    values = rng.normal(size=(count, len(columns))) * 0.3 + species[:, None] + 1
    return {**{name: values[:, i] for i, name in enumerate(columns)}, "species": species}


def _higgs(count: int, rng: np.random.Generator) -> dict[str, Any]:
    inputs = rng.normal(size=(count, 28)).astype(np.float32)
    return {"inputs": inputs.tolist(), "label": (inputs[:, 0] * inputs[:, 1] > 0).astype(np.float64)}


def _imdb(count: int, rng: np.random.Generator) -> dict[str, Any]:
    labels = np.arange(count) % 2
    words = np.array(["a film", "the plot", "an actor", "the end", "music", "light"])
    texts = [" ".join(rng.choice(words, 30)) + (" good" if label else " bad") for label in labels]
    return {"text": texts, "label": labels}


STAND_INS: dict[str, Columns] = {
    "uoft-cs/cifar10": _pictures("img", 32, "RGB"),
    "ylecun/mnist": _pictures("image", 28, "L"),
    "zalando-datasets/fashion_mnist": _pictures("image", 28, "L"),
    "hitorilabs/iris": _iris,
    "scikit-learn/iris": _iris,
    "jxie/higgs": _higgs,
    "stanfordnlp/imdb": _imdb,
}


class Shelf:
    """Data sets by their names on the hub; each is made when it is first asked for, and what is missing is kept in mind."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._lock = folder, threading.Lock()
        self.missing, self.given = set[str](), set[str]()

    def find(self, name: str) -> Path | None:
        """The folder of a data set, as the stand-in of the hub wants it."""
        if name not in STAND_INS:
            self.missing.add(name)
            return None
        self.given.add(name)
        folder = self._folder / name
        with self._lock:  # the clients ask at the same time
            if not folder.exists():
                self._make(name, folder)
        return folder

    def made(self) -> dict[str, Path]:
        """The data sets that there are by now, by name."""
        return {name: self._folder / name for name in STAND_INS if (self._folder / name).is_dir()}

    def _make(self, name: str, folder: Path) -> None:
        from datasets import ClassLabel, Dataset, disable_progress_bars

        disable_progress_bars()
        scratch = folder.with_name(f"{folder.name}.new")
        (scratch / "data").mkdir(parents=True, exist_ok=True)
        for split, count in ROWS.items():
            columns = STAND_INS[name](count, np.random.default_rng(len(split)))
            rows = Dataset.from_dict(columns)
            if "label" in columns and np.issubdtype(np.asarray(columns["label"]).dtype, np.integer):
                names = [str(each) for each in sorted(set(columns["label"].tolist()))]
                rows = rows.cast_column("label", ClassLabel(names=names))
            rows.to_parquet(str(scratch / "data" / f"{split}-00000-of-00001.parquet"))
        scratch.rename(folder)
