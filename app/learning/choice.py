"""Which data a person gets: what they asked for, else CIFAR-10 from the hub, else the embedded digits."""

import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from app.learning.hub import answers as reachable
from app.learning.prepare import prepare
from app.learning.sources import DIGITS

DEFAULT_DATASET = "uoft-cs/cifar10"


def choose_dataset(dataset: str, say: Callable[[str], None]) -> str:
    """The data set to prepare: the one asked for, else CIFAR-10, else the digits where no hub can be reached.

    A data set that was asked for is never replaced.
    """
    if dataset:
        return dataset
    if reachable():
        return DEFAULT_DATASET
    say(
        f"no data hub can be reached for {DEFAULT_DATASET}: using the embedded {DIGITS} instead (set DATASET for other data)"
    )
    return DIGITS


def prepare_by_name(dataset: str, root: Path, **settings: Any) -> Path:
    """Prepare ``dataset`` into a folder under ``root`` that is named after what it holds; returns the folder."""
    words = re.sub(r"[^a-z0-9]+", "-", Path(dataset).name.lower()).strip("-") or "data"
    digest = hashlib.sha256(
        json.dumps([dataset, settings], sort_keys=True, default=str).encode()
    ).hexdigest()[:8]
    out = root / f"{words}-{settings['num_partitions']}-{settings['partitioner']}-{digest}"
    prepare(dataset, out, **settings)
    return out
