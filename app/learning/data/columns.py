"""Finding the column of the pictures, the column of the labels, and the names of the classes."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from app.errors import UserError

MOST_CLASSES = 20_000
LONGEST_CLASS = 200

# First choice first. cifar100 has `fine_label` and `coarse_label`.
_IMAGE_NAMES = ("image", "img", "picture", "pixel_values")
_LABEL_NAMES = ("label", "labels", "fine_label", "class", "target", "category", "y")


def find_columns(
    features: Mapping[str, Any], source: str, image_column: str | None, label_column: str | None
) -> tuple[str, str]:
    """The image and the label column among `datasets` features, unless they are given.

    Raises UserError when there is none, or several and none has a usual name.
    """
    images = [name for name, feature in features.items() if _is_image(feature)]
    image = _choose("image-column", image_column, images, _IMAGE_NAMES, features, source)
    named = [name for name, feature in features.items() if type(feature).__name__ == "ClassLabel"]
    plain = [name for name, feature in features.items() if name != image and _is_value(feature)]
    if label_column is None and not named:
        # Without class names, only the column's name distinguishes a label from an index or a caption.
        labels = [name for name in plain if name.lower() in _LABEL_NAMES]
    elif label_column is None:
        labels = named
    else:
        labels = named + plain
    return image, _choose("label-column", label_column, labels, _LABEL_NAMES, features, source)


def _choose(
    setting: str,
    asked: str | None,
    fitting: list[str],
    usual: tuple[str, ...],
    features: Mapping[str, Any],
    source: str,
) -> str:
    if asked is not None:
        if asked not in fitting:
            raise UserError(
                f"{setting}={asked} does not fit DATASET={source}; "
                f"its columns are: {', '.join(features)}; of the right kind: {', '.join(fitting) or 'none'}"
            )
        return asked
    if not fitting:
        kind = setting.removesuffix("-column")
        raise UserError(
            f"DATASET={source} has no {kind} column among: {', '.join(features)}; "
            f"name it with `bouquet prepare --{setting}` and train with --data, or use another data set"
        )
    if len(fitting) == 1:
        return fitting[0]
    for name in usual:
        if name in fitting:
            return name
    raise UserError(
        f"DATASET={source} has several such columns; choose one with --{setting}: {', '.join(fitting)}"
    )


def _is_image(feature: Any) -> bool:
    # A Parquet file without the hub's metadata describes a picture as a plain struct.
    plain = isinstance(feature, Mapping) and set(feature) == {"bytes", "path"}
    return plain or type(feature).__name__ == "Image"


def _is_value(feature: Any) -> bool:
    dtype = str(getattr(feature, "dtype", ""))
    return type(feature).__name__ == "Value" and (
        dtype == "bool" or dtype.startswith(("int", "uint", "string"))
    )


def label_values(
    train: Any, test: Any, source: str, label_column: str
) -> tuple[list[str], npt.NDArray[Any] | None]:
    """Class names of the column `label`, and the column's value for each of them.

    The values are None when labels are class indices already. Raises UserError for missing labels
    and for fewer than two classes.
    """
    names: list[str] | None = getattr(train.features["label"], "names", None)
    distinct = {*train.unique("label"), *test.unique("label")}
    if None in distinct or (names is not None and not distinct <= set(range(len(names)))):
        raise UserError(
            f"label-column={label_column} of DATASET={source} has missing labels; "
            "use another column or a data set with every label"
        )
    values = None if names is not None else np.array(sorted(distinct))
    classes = names if names is not None else [str(value) for value in sorted(distinct)]
    if len(classes) < 2:
        raise UserError(
            f"label-column={label_column} of DATASET={source} has {len(classes)} class; two are needed"
        )
    return classes, values


def check_classes(classes: Sequence[str], source: str) -> None:
    """Raise UserError for more classes than make sense, and for names that no line of text can hold."""
    if len(classes) > MOST_CLASSES:
        raise UserError(
            f"DATASET={source} has {len(classes)} classes; at most {MOST_CLASSES} make sense: "
            "is the label column an index or a caption?"
        )
    for name in classes:
        if len(name) > LONGEST_CLASS:
            raise UserError(
                f"DATASET={source}: the name of a class is longer than {LONGEST_CLASS} letters; rename it"
            )
        if not name.isprintable():
            raise UserError(
                f"DATASET={source}: class {name} holds characters that cannot be printed; rename it"
            )
