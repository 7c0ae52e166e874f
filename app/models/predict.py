"""What a model says of pictures: files, and all pictures in folders."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from app.errors import UserError
from app.learning.batches import normalise
from app.learning.data.folders import pictures_in
from app.learning.data.pictures import Encoded, ImageFormat, read_picture
from app.learning.data.store import Images
from app.models.load import Trained

AT_ONCE = 64  # pictures in memory


class Guess(NamedTuple):
    """A class, and how probable it is to the model."""

    name: str
    probability: float


@dataclass(frozen=True)
class Prediction:
    """What the model says of one picture: the most probable classes first; or why the picture cannot be read."""

    file: Path
    guesses: tuple[Guess, ...] = ()
    fault: str = ""


def pictures(paths: Iterable[Path]) -> Iterator[Path]:
    """The files that are meant: each file itself, and what is named like a picture in each folder.

    Raises:
        UserError: a folder cannot be read, or has no picture.
    """
    for path in paths:
        if not path.is_dir():
            yield path
            continue
        try:
            found = pictures_in(path)
        except OSError as error:
            raise UserError(f"{path} cannot be read: {error.strerror}; give a folder of pictures") from None
        if not found:
            raise UserError(f"{path} has no file that is named like a picture; give a folder of pictures")
        yield from found


def predict(trained: Trained, files: Iterable[Path], top: int) -> Iterator[Prediction]:
    """Ask the model about each file, in their order. Pictures are resized as those that it was trained on."""
    batch: list[tuple[Path, Images | None, str]] = []
    for file in files:
        batch.append((file, *_read(file, trained.shape)))
        if len(batch) == AT_ONCE:
            yield from _predict(trained, batch, top)
            batch = []
    yield from _predict(trained, batch, top)


def probabilities(trained: Trained, images: Images) -> np.ndarray:
    """Probability of each class, [N, classes], for pictures uint8 [N, C, H, W]."""
    found = []
    with torch.inference_mode():
        for start in range(0, len(images), AT_ONCE):
            part = torch.from_numpy(np.ascontiguousarray(images[start : start + AT_ONCE]))
            found.append(torch.softmax(trained.model(normalise(part)).double(), 1).numpy())
    return np.concatenate(found) if found else np.zeros((0, len(trained.classes)))


def _predict(
    trained: Trained, batch: Sequence[tuple[Path, Images | None, str]], top: int
) -> Iterator[Prediction]:
    images = [image for _, image, _ in batch if image is not None]
    rows = iter(probabilities(trained, np.stack(images)) if images else ())
    for file, image, fault in batch:
        if image is None:
            yield Prediction(file, fault=fault)
            continue
        row = next(rows)
        best = np.argsort(-row, kind="stable")[:top]
        yield Prediction(file, tuple(Guess(trained.classes[i], float(row[i])) for i in best))


def _read(file: Path, shape: tuple[int, int, int]) -> tuple[Images | None, str]:
    """The picture, [C, H, W], or why it cannot be read."""
    path = file.absolute()
    encoded = Encoded(None, str(path), (str(path.parent),))
    try:
        return read_picture(encoded, ImageFormat(*shape, resize=True)), ""
    except FileNotFoundError:
        return None, "there is no such file"
    except OSError as error:
        return None, error.strerror or "it is no picture that can be read"
    except Exception as error:  # decoders raise many kinds on damaged input
        return None, " ".join(str(error).split()) or "it is no picture that can be read"
