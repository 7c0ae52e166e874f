"""Decoding pictures into arrays of one form."""

import io
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from app.learning.store import Images

DEFAULT_SIZE = 32
"""Edge in pixels that pictures of different sizes are resized to."""

_GREY = ("1", "L", "LA", "La", "I", "F")
_ROTATABLE = ("JPEG", "MPO", "WEBP", "TIFF")


@dataclass(frozen=True, slots=True)
class Form:
    """What every picture becomes: channels x height x width. `resize` allows other sizes in."""

    channels: int
    height: int
    width: int
    resize: bool

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.channels, self.height, self.width


class OtherForm(Exception):
    """A picture does not fit the form that was guessed from the first one; `form` fits both."""

    def __init__(self, form: Form) -> None:
        super().__init__(f"pictures of different forms; using {form.shape}")
        self.form = form


@dataclass(frozen=True, slots=True)
class Encoded:
    """A picture as a file: its bytes, or the path to read them from."""

    data: bytes | None
    path: str | None

    def open(self) -> Image.Image:
        if self.data is not None:
            return Image.open(io.BytesIO(self.data))
        if self.path is None:
            raise ValueError("no picture")
        return Image.open(io.BytesIO(Path(self.path).read_bytes()))


def first_form(pictures: Sequence[Encoded], image_size: int | None) -> Form:
    """The form to try first: that of the first readable picture, at `image_size` if one is asked for."""
    form = Form(3, DEFAULT_SIZE, DEFAULT_SIZE, resize=True)
    for encoded in pictures:
        try:
            picture = _upright(encoded.open())
        except Exception:
            continue  # counted and named when everything is decoded
        form = Form(1 if _is_grey(picture) else 3, picture.height, picture.width, resize=False)
        break
    return form if image_size is None else replace(form, height=image_size, width=image_size, resize=True)


def decode(pictures: Sequence[Encoded], form: Form, workers: int) -> tuple[Images, list[int]]:
    """Decode `pictures` into uint8 [N, C, H, W]; also the indices of those that cannot be read.

    Raises OtherForm when a picture does not fit `form`. Large pictures decode in parallel: Pillow
    releases the interpreter's lock.
    """
    channels = () if form.channels == 1 else (form.channels,)
    pixels = np.zeros((len(pictures), form.height, form.width, *channels), np.uint8)

    def one_share(start: int) -> list[int]:
        bad = []
        for i in range(start, len(pictures), workers):
            try:
                pixels[i] = _decode_one(pictures[i], form)
            except (OtherForm, MemoryError):
                raise
            except Exception:  # decoders raise many kinds on damaged input
                bad.append(i)
        return bad

    if workers == 1:
        bad = one_share(0)
    else:
        with ThreadPoolExecutor(workers) as pool:
            bad = sorted(i for share in pool.map(one_share, range(workers)) for i in share)
    if form.channels == 1:
        return pixels[:, np.newaxis], bad
    return np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)), bad


def _decode_one(encoded: Encoded, form: Form) -> Any:
    picture = _upright(encoded.open())
    if form.channels == 1 and not _is_grey(picture):
        raise OtherForm(replace(form, channels=3))
    if picture.mode.startswith("I"):  # 16 bits per pixel, which Pillow would cut off at 255
        picture = Image.fromarray((np.asarray(picture) >> 8).clip(0, 255).astype(np.uint8))
    mode = "L" if form.channels == 1 else "RGB"
    if picture.mode != mode:
        picture = picture.convert(mode)
    if picture.size != (form.width, form.height):
        if not form.resize:
            raise OtherForm(replace(form, height=DEFAULT_SIZE, width=DEFAULT_SIZE, resize=True))
        picture = picture.resize((form.width, form.height), Image.Resampling.BILINEAR)
    return picture


def _upright(picture: Image.Image) -> Image.Image:
    """Turn a photograph the way its camera was held, as `datasets` does."""
    return ImageOps.exif_transpose(picture) if picture.format in _ROTATABLE else picture


def _is_grey(picture: Image.Image) -> bool:
    return picture.mode in _GREY or picture.mode.startswith("I;16")
