"""Choosing the data set: the one asked for, else CIFAR-10 from the hub, else the embedded digits."""

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from app.learning.data.hub import answers as reachable
from app.learning.data.prepare import Request, prepare
from app.learning.data.sources import DIGITS

DEFAULT_DATASET = "uoft-cs/cifar10"


def choose_dataset(dataset: str, echo: Callable[[str], None]) -> str:
    """The data set to prepare: the one asked for, else CIFAR-10, else the digits where no hub can be reached.

    A data set that was asked for is never replaced.
    """
    if dataset:
        return dataset
    if reachable():
        return DEFAULT_DATASET
    echo(
        f"no data hub can be reached for {DEFAULT_DATASET}: using the embedded {DIGITS} instead (set DATASET for other data)"
    )
    return DIGITS


def prepare_by_name(request: Request, root: Path) -> Path:
    """Prepare what is asked for into a folder under ``root`` that is named after it; returns the folder."""
    words = re.sub(r"[^a-z0-9]+", "-", Path(request.source).name.lower()).strip("-") or "data"
    digest = hashlib.sha256(json.dumps(asdict(request), sort_keys=True).encode()).hexdigest()[:8]
    out = root / f"{words}-{request.num_partitions}-{request.partitioner}-{digest}"
    prepare(request, out)
    return out
