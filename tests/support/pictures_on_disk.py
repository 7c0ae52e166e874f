"""Small data sets on disk, in the forms that people have them."""

from pathlib import Path
from typing import Any

import datasets
import numpy as np
from PIL import Image

datasets.disable_progress_bars()


def noise(seed: int, height: int, width: int, mode: str = "RGB") -> Image.Image:
    """A picture that differs from every other seed's."""
    channels = () if mode == "L" else (3,)
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, *channels), np.uint8)
    return Image.fromarray(pixels)


def hub_folder(
    folder: Path,
    *,
    train: int = 200,
    test: int | None = 40,
    size: tuple[int, int] = (8, 8),
    mode: str = "RGB",
    image: str = "image",
    labels: dict[str, Any] | None = None,
    plain: bool = False,
) -> Path:
    """Parquet as the hub keeps it. `labels`: column name -> number of classes, or a list of values.

    `plain`: pictures of one colour, which take little space.
    """
    labels = labels or {"label": 4}
    kinds = {
        name: datasets.ClassLabel(names=[f"{name}-{i}" for i in range(spec)])
        if isinstance(spec, int)
        else datasets.Value("string" if isinstance(spec[0], str) else "int64")
        for name, spec in labels.items()
    }
    features = datasets.Features({image: datasets.Image(), **kinds})
    for split, count in (("train", train), ("test", test)):
        if count is None:
            continue
        rows: dict[str, Any] = {
            image: [
                Image.new(mode, size, i % 256) if plain else noise(i + len(split) * 1000, *size, mode)
                for i in range(count)
            ]
        }
        for name, spec in labels.items():
            values = list(range(spec)) if isinstance(spec, int) else spec
            rows[name] = [values[i % len(values)] for i in range(count)]
        (folder / "data").mkdir(parents=True, exist_ok=True)
        datasets.Dataset.from_dict(rows, features=features).to_parquet(
            str(folder / "data" / f"{split}-00000-of-00001.parquet")
        )
    return folder


def image_folder(folder: Path, classes: dict[str, int], size: tuple[int, int] = (32, 32)) -> Path:
    """One directory of PNG files per class."""
    for index, (name, count) in enumerate(classes.items()):
        (folder / name).mkdir(parents=True)
        for i in range(count):
            noise(1000 * index + i, *size).save(folder / name / f"{i:03}.png")
    return folder
