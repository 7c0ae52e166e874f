"""The data store, which `bouquet prepare` writes and every client, server and experiment opens.

A store is a directory of plain arrays that open by memory map in milliseconds:

    manifest.json                            what it was made from, and how
    partition-<i>/{train,val}_images.npy     uint8 [N, C, H, W]
    partition-<i>/{train,val}_labels.npy     int64 [N]
    test_images.npy, test_labels.npy         the split the server evaluates on

`manifest.json` is written last: a directory without one is not a store. Nothing here imports torch;
`torch.from_numpy(split.images)` shares the mapped memory.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from app.environment import DATA_VARIABLE, AppEnvironment, read
from app.errors import UserError

MANIFEST = "manifest.json"

T = TypeVar("T", bound=np.generic)
Edge = Annotated[int, Field(ge=1, le=2**31 - 1)]
Images = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int64]


class Counts(BaseModel):
    """Examples in one partition."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    train: int = Field(ge=1)
    val: int = Field(ge=1)


class Manifest(BaseModel):
    """The content of a store, and its source."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Literal[1] = 1
    source: str
    """The source as it was given: a hub name, a folder, or `digits`."""
    partitioner: str
    """`iid`, `dirichlet`, ...; `none` for a client's own image folder, which is one partition."""
    partitioner_settings: dict[str, float | int | bool] = {}
    num_partitions: int = Field(ge=1)
    seed: int
    shape: tuple[Edge, Edge, Edge]
    """(channels, height, width) of one picture."""
    classes: list[str] = Field(min_length=2)
    """Class names; a label is an index into them."""
    image_column: str
    label_column: str
    counts: list[Counts]
    """Examples per partition, by partition id."""
    test_count: int = Field(ge=1)
    test_from: Literal["test", "validation", "held-out", "partition"]
    """Where the test split comes from: the source's own `test` or `validation` split, a part of its
    `train` split held out before partitioning, or the validation part of the only partition."""
    skipped: list[str] = []
    """Pictures that could not be read and were left out under the stated tolerance."""
    checksum: str
    """SHA-256 over the arrays: images, then labels, of every split; partitions first, then test."""
    request: str
    """SHA-256 over the request; preparing the same again is a no-op."""

    @property
    def division(self) -> str:
        """How the source is divided, and a part of its checksum; empty for one client's own data."""
        if self.partitioner == "none":
            return ""
        chosen = "".join(f" {name}={value}" for name, value in sorted(self.partitioner_settings.items()))
        how = f"{self.partitioner}{chosen}, seed {self.seed}"
        return f"{self.num_partitions} partitions, {how}, checksum {self.checksum[:12]}"


@dataclass(frozen=True, slots=True)
class Split:
    """Pictures and their labels: images uint8 [N, C, H, W], labels int64 [N]."""

    images: Images
    labels: Labels

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, slots=True)
class Partition:
    """One client's data: 80 % to train on, 20 % to validate on."""

    train: Split
    val: Split


@dataclass(frozen=True, slots=True)
class Store:
    """An opened data store. Arrays are mapped only when they are asked for."""

    path: Path
    manifest: Manifest

    @classmethod
    def open(cls, path: Path | None = None) -> "Store":
        """Open the store at `path`, or at $BOUQUET_DATA when none is given.

        Raises UserError when there is no complete store.
        """
        path = path or default_path()
        file = path / MANIFEST
        try:
            text = file.read_text(encoding="utf-8")
        except (FileNotFoundError, NotADirectoryError):
            raise UserError(
                f"{DATA_VARIABLE}: no prepared data in {path}; run `bouquet prepare --out {path}` first"
            ) from None
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{DATA_VARIABLE}: cannot read {file}: {_one_line(error)}") from None
        try:
            manifest = Manifest.model_validate_json(text)
        except ValidationError as error:
            raise _damaged(file, _one_line(error.errors()[0]["msg"])) from None
        if len(manifest.counts) != manifest.num_partitions:
            raise _damaged(file, "counts and num_partitions disagree")
        return cls(path, manifest)

    def partition(self, partition_id: int) -> Partition:
        """Partition `partition_id`, mapped into memory (copy on write)."""
        manifest = self.manifest
        if not 0 <= partition_id < manifest.num_partitions:
            raise UserError(
                f"partition-id {partition_id} is out of range: the data in {self.path} has "
                f"{manifest.num_partitions} partitions, 0 to {manifest.num_partitions - 1}"
            )
        directory = self.path / f"partition-{partition_id}"
        counts = manifest.counts[partition_id]
        return Partition(
            train=self._split(directory, "train", counts.train),
            val=self._split(directory, "val", counts.val),
        )

    def partition_for(self, partition_id: int, num_partitions: int | None = None) -> Partition:
        """The partition of the node with this `partition-id` (of `num-partitions`, if known).

        A store of a client's own image folder is one partition, whatever the node's id.
        """
        manifest = self.manifest
        if manifest.partitioner == "none":
            return self.partition(0)
        if num_partitions is not None and num_partitions != manifest.num_partitions:
            raise UserError(
                f"num-partitions is {num_partitions} but the data in {self.path} was prepared for "
                f"{manifest.num_partitions}; set NUM_CLIENTS={manifest.num_partitions}, or run "
                f"`bouquet prepare --clients {num_partitions} --out {self.path} --force`"
            )
        return self.partition(partition_id)

    @property
    def test(self) -> Split:
        """The split that the server evaluates the global model on."""
        if self.manifest.test_from == "partition":
            return self.partition(0).val
        return self._split(self.path, "test", self.manifest.test_count)

    def require(self, shape: Sequence[int], classes: Sequence[str], division: str = "") -> None:
        """Raise UserError unless the store holds this shape, these classes and, if it has one, this division."""
        manifest = self.manifest
        if tuple(shape) != manifest.shape:
            raise UserError(
                f"{DATA_VARIABLE}: pictures in {self.path} are {_shape(manifest.shape)} but the model is "
                f"for {_shape(shape)}; prepare with `--force --image-size {shape[-1]}`, or use other data"
            )
        if list(classes) != manifest.classes:
            raise UserError(
                f"{DATA_VARIABLE}: classes in {self.path} are {_names(manifest.classes)} but the model is "
                f"for {_names(classes)}; run `bouquet prepare --classes {','.join(classes)} --force`"
            )
        if division and manifest.division and division != manifest.division:
            raise UserError(
                f"{DATA_VARIABLE}: {self.path} holds {manifest.division}, the server {division}; prepare both alike, and "
                "start all clients anew after a change of NUM_CLIENTS"
            )

    def _split(self, directory: Path, part: str, count: int) -> Split:
        images = _load(directory / f"{part}_images.npy", np.uint8, (count, *self.manifest.shape))
        labels = _load(directory / f"{part}_labels.npy", np.int64, (count,))
        if labels.min() < 0 or labels.max() >= len(self.manifest.classes):
            raise _damaged(directory / f"{part}_labels.npy", "it holds labels of no class")
        return Split(images, labels)


def default_path() -> Path:
    """The store directory named by $BOUQUET_DATA."""
    folder = read(AppEnvironment).data
    if folder is None:
        raise UserError(
            f"{DATA_VARIABLE} is not set: give it the directory that `bouquet prepare --out DIR` wrote"
        )
    return folder


def _load(file: Path, dtype: type[T], shape: tuple[int, ...]) -> npt.NDArray[T]:
    array: npt.NDArray[T]
    try:
        # "c": torch warns about read-only memory, and a stray write must never reach the file.
        # Not np.load, which opens archives and pickles too.
        array = np.lib.format.open_memmap(file, mode="c")
    except FileNotFoundError:
        raise _damaged(file, "the file is missing") from None
    except Exception as error:  # a damaged header can fail NumPy's parser in many ways
        raise _damaged(file, _one_line(error)) from None
    if array.dtype != dtype or array.shape != shape:
        raise _damaged(file, f"it holds {array.dtype} {array.shape}, not {dtype.__name__} {shape}")
    # A plain ndarray over the same mapping: np.memmap slows every slice and survives arithmetic.
    return array.view(np.ndarray)


def _damaged(file: Path, what: str) -> UserError:
    return UserError(f"{DATA_VARIABLE}: {file} is damaged ({what}); run `bouquet prepare --force` again")


def _shape(shape: Sequence[int]) -> str:
    return "x".join(str(n) for n in shape)


def _names(classes: Sequence[str]) -> str:
    shown = ", ".join(classes[:5])
    return f"{shown}, ... ({len(classes)})" if len(classes) > 5 else shown


def _one_line(error: object) -> str:
    return " ".join(str(error).split())
