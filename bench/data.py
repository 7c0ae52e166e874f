"""The data that all contenders share: a folder in the form of the hub, and Bouquet's store of the same.

Every contender gets CIFAR-10's shape (3x32x32, ten classes, columns `img` and `label`), because the plain
app is the tutorial's and knows nothing else.
"""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from bench.environments import ROOT
from bench.processes import BenchError

VARIABLE = "BOUQUET_BENCH_DATA"
HUB_NAME = "uoft-cs/cifar10"
DIGITS = "digits"
CACHE = ROOT / ".bouquet" / "bench" / "data"


def chosen(option: str) -> str:
    """The data set asked for: the option, $BOUQUET_BENCH_DATA, the source of a prepared store, CIFAR-10."""
    manifest = Path(os.environ.get("BOUQUET_DATA") or ROOT / ".bouquet" / "data") / "manifest.json"
    prepared = ""
    if manifest.exists():
        prepared = str(json.loads(manifest.read_text(encoding="utf-8")).get("source", ""))
    return option or os.environ.get(VARIABLE, "") or prepared or HUB_NAME


def hub_folder(name: str, train: int | None = None, test: int | None = None) -> Path:
    """A folder in hub form with at most so many pictures of each split; made once.

    `name` is a folder in hub form, a name on the hub, or `digits` (scikit-learn's, for machines that
    reach no hub). Raises BenchError when it cannot be read.
    """
    source = Path(name).expanduser()
    if source.is_dir() and train is None and test is None:
        return source.resolve()
    label = source.resolve().name if source.is_dir() else name.replace("/", "--")
    out = CACHE / f"{label}-{train or 'all'}-{test or 'all'}"
    if (out / "complete").exists():
        return out
    for split, limit in (("train", train), ("test", test)):
        rows = _digits(split) if name == DIGITS else _load(name, split)
        if limit is not None:
            rows = rows.select(range(min(limit, len(rows))))
        file = out / "plain_text" / f"{split}-00000-of-00001.parquet"
        file.parent.mkdir(parents=True, exist_ok=True)
        rows.to_parquet(str(file))
    (out / "complete").touch()
    return out


def store(folder: Path, clients: int) -> Path:
    """Bouquet's data store of the folder for so many clients, as `bouquet prepare` makes it."""
    from app.errors import UserError
    from app.learning.data.prepare import Request, prepare

    name = folder.name if CACHE in folder.parents else f"{folder.parent.name}-{folder.name}"
    out = CACHE / "stores" / f"{name}-{clients}"
    try:
        prepare(Request(str(folder), num_partitions=clients), out, force=True)
    except UserError as error:
        raise BenchError(str(error)) from None
    return out


def _load(name: str, split: str) -> Any:
    import datasets

    datasets.disable_progress_bars()
    try:
        rows = datasets.load_dataset(str(Path(name).resolve()) if Path(name).is_dir() else name, split=split)
    except Exception as error:  # the library raises many kinds for "not there" and "not reachable"
        first = str(error).splitlines()[0]
        raise BenchError(
            f"{name} cannot be read ({first[:120]}); give --dataset a folder in hub form, or `{DIGITS}`"
        ) from None
    columns = {"image": "img", "labels": "label"}
    rows = rows.rename_columns({old: new for old, new in columns.items() if old in rows.column_names})
    if not {"img", "label"} <= set(rows.column_names):
        raise BenchError(f"{name} has columns {rows.column_names}; the plain app needs `img` and `label`")
    return rows


def _digits(split: str) -> Any:
    """scikit-learn's 1,797 scanned digits as 32x32 RGB pictures; the last 297 are the test split."""
    from datasets import ClassLabel, Dataset, Features, Image
    from PIL import Image as Pictures
    from sklearn.datasets import load_digits

    scans = load_digits()
    part = slice(None, 1500) if split == "train" else slice(1500, None)
    big = np.kron(scans.images[part], np.ones((4, 4))) * (255 / 16)
    pictures = [Pictures.fromarray(scan.astype(np.uint8)).convert("RGB") for scan in big]
    features = Features({"img": Image(), "label": ClassLabel(names=[str(n) for n in range(10)])})
    return Dataset.from_dict({"img": pictures, "label": scans.target[part].tolist()}, features=features)
