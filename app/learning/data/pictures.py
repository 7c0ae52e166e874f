"""Decoding pictures into arrays of one format."""

import io
import os
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from app.learning.data.folders import LARGEST_FILE, read_file
from app.learning.data.store import Images

DEFAULT_SIZE = 32
"""Edge in pixels that pictures of different sizes, and very large ones, are resized to."""
LARGEST_SIZE = 1024
MOST_PIXELS = 64_000_000
"""A picture of more is not unfolded: 20 kB can become 500 MB."""
# Pictures of more than this are unfolded one at a time, whatever the number of threads.
_LARGE = 8_000_000
_one_at_a_time = threading.Lock()
# What data sets come in. Others, such as PostScript, Pillow hands to programs of the system.
Image.init()
_COMMON = "PNG JPEG MPO GIF BMP DIB WEBP TIFF PPM JPEG2000 AVIF TGA PCX ICO"
_FORMATS = tuple(name for name in _COMMON.split() if name in Image.OPEN)

_GREY = ("1", "L", "LA", "La", "I", "F")
_ROTATABLE = ("JPEG", "MPO", "WEBP", "TIFF")


@dataclass(frozen=True, slots=True)
class ImageFormat:
    """The format of every decoded picture: channels x height x width. With `resize`, other sizes are resized."""

    channels: int
    height: int
    width: int
    resize: bool

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.channels, self.height, self.width


class FormatMismatch(Exception):
    """A picture does not fit the format of the first one; `image_format` fits both."""

    def __init__(self, image_format: ImageFormat) -> None:
        super().__init__(f"pictures of different formats; using {image_format.shape}")
        self.image_format = image_format


@dataclass(frozen=True, slots=True)
class Encoded:
    """A picture as a file: its bytes, or the path to read them from. A table may name any path, so `roots` bound it."""

    data: bytes | None
    path: str | None
    roots: tuple[str, ...] = ()

    def open(self) -> Image.Image:
        """The picture, not yet unfolded. Raises ValueError, OSError and what Pillow raises."""
        picture = Image.open(io.BytesIO(self._bytes()), formats=_FORMATS)
        if picture.width * picture.height > MOST_PIXELS:
            raise ValueError(f"{picture.width} x {picture.height} pixels are too many")
        return picture

    def _bytes(self) -> bytes:
        if self.data is not None:
            if len(self.data) > LARGEST_FILE:
                raise ValueError("too large")
            return self.data
        if self.path is None:
            raise ValueError("no picture")
        path = os.path.abspath(self.path)  # noqa: PTH100 - not resolved: a link in the folder is its owner's
        if not any(path.startswith(root + os.sep) for root in self.roots):
            raise ValueError(f"{path} is outside of the data set")
        return read_file(path)


def first_format(pictures: Sequence[Encoded], image_size: int | None) -> ImageFormat:
    """The format to try first: that of the first readable picture, at `image_size` if one is given."""
    image_format = ImageFormat(3, DEFAULT_SIZE, DEFAULT_SIZE, resize=True)
    for encoded in pictures:
        try:
            picture = _upright(encoded.open())
        except Exception:
            continue  # counted and named when everything is decoded
        image_format = ImageFormat(1 if _is_grey(picture) else 3, picture.height, picture.width, resize=False)
        if max(picture.size) > LARGEST_SIZE:
            image_format = replace(image_format, height=DEFAULT_SIZE, width=DEFAULT_SIZE, resize=True)
        break
    return (
        image_format
        if image_size is None
        else replace(image_format, height=image_size, width=image_size, resize=True)
    )


def decode(pictures: Sequence[Encoded], image_format: ImageFormat, workers: int) -> tuple[Images, list[int]]:
    """Decode `pictures` into uint8 [N, C, H, W]; also the indices of those that cannot be read.

    Raises FormatMismatch when a picture does not fit `image_format`. Large pictures decode in parallel: Pillow
    releases the interpreter's lock.
    """
    channels = () if image_format.channels == 1 else (image_format.channels,)
    pixels = np.zeros((len(pictures), image_format.height, image_format.width, *channels), np.uint8)

    def one_share(start: int) -> list[int]:
        bad = []
        for i in range(start, len(pictures), workers):
            try:
                pixels[i] = _decode_one(pictures[i], image_format)
            except (FormatMismatch, MemoryError):
                raise
            except Exception:  # decoders raise many kinds on damaged input
                bad.append(i)
        return bad

    if workers == 1:
        bad = one_share(0)
    else:
        with ThreadPoolExecutor(workers) as pool:
            bad = sorted(i for share in pool.map(one_share, range(workers)) for i in share)
    if image_format.channels == 1:
        return pixels[:, np.newaxis], bad
    return np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)), bad


def read_picture(encoded: Encoded, image_format: ImageFormat) -> Images:
    """One picture as uint8 [C, H, W]; a coloured one becomes grey where the format is. Raises what decoders raise."""
    picture = _upright(encoded.open())
    if image_format.channels == 1 and not _is_grey(picture):
        picture = picture.convert("L")
    pixels: Images = _unfolded(picture, image_format)
    array = np.asarray(pixels, np.uint8)
    return array[np.newaxis] if image_format.channels == 1 else array.transpose(2, 0, 1)


def _decode_one(encoded: Encoded, image_format: ImageFormat) -> Any:
    picture = encoded.open()
    with _one_at_a_time if picture.width * picture.height > _LARGE else nullcontext():
        return _unfolded(_upright(picture), image_format)


def _unfolded(picture: Image.Image, image_format: ImageFormat) -> Any:
    if image_format.channels == 1 and not _is_grey(picture):
        raise FormatMismatch(replace(image_format, channels=3))
    if picture.mode.startswith("I"):  # 16 bits per pixel, which Pillow would cut off at 255
        picture = Image.fromarray((np.asarray(picture) >> 8).clip(0, 255).astype(np.uint8))
    mode = "L" if image_format.channels == 1 else "RGB"
    if picture.mode != mode:
        picture = picture.convert(mode)
    if picture.size != (image_format.width, image_format.height):
        if not image_format.resize:
            raise FormatMismatch(replace(image_format, height=DEFAULT_SIZE, width=DEFAULT_SIZE, resize=True))
        picture = picture.resize((image_format.width, image_format.height), Image.Resampling.BILINEAR)
    return picture


def _upright(picture: Image.Image) -> Image.Image:
    """Turn a photograph the way its camera was held, as `datasets` does."""
    return ImageOps.exif_transpose(picture) if picture.format in _ROTATABLE else picture


def _is_grey(picture: Image.Image) -> bool:
    return picture.mode in _GREY or picture.mode.startswith("I;16")
