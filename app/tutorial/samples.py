"""`bouquet samples`: what the clients' data looks like, as PNG files.

bouquet samples --partition-id 0     4 x 8 training pictures with their class names
bouquet samples --all                how the labels are distributed over the partitions
"""

import contextlib
import io
from pathlib import Path

import matplotlib as mpl
import numpy as np

from app.environment import quiet_flower
from app.errors import UserError
from app.learning.data.store import Store

# Pictures go to files; a machine without a display has no other backend.
mpl.use("Agg")

ROWS, COLUMNS = 4, 8


def save_samples(store: Store, partition_id: int, file: Path) -> Path:
    """Save the first 32 training pictures of a partition, titled with their classes; returns `file`.

    The store keeps pixels as they were, 0 to 255: what training sees is (x / 255 - 0.5) / 0.5.
    """
    from matplotlib import pyplot

    manifest = store.manifest
    train = store.partition_for(partition_id).train
    figure, axes = pyplot.subplots(ROWS, COLUMNS, figsize=(12, 6.6))
    for axis in axes.flat:
        axis.axis("off")
    shown = zip(axes.flat, train.images, train.labels, strict=False)
    for axis, image, label in shown:
        axis.imshow(np.moveaxis(image, 0, -1), cmap="gray" if len(image) == 1 else None, vmin=0, vmax=255)
        axis.set_title(manifest.classes[label], fontsize=10)
    figure.suptitle(f"{Path(manifest.source).name}: training pictures of partition {partition_id}")
    figure.tight_layout()
    return _save(figure, file)


def save_label_distribution(store: Store, file: Path) -> Path:
    """Save the number of examples per class in every partition, train and validation; returns `file`."""
    quiet_flower()
    import datasets
    from flwr_datasets.partitioner import NaturalIdPartitioner
    from flwr_datasets.visualization import plot_label_distributions

    manifest = store.manifest
    datasets.disable_progress_bars()
    labels, ids = [], []
    for i in range(manifest.num_partitions):
        partition = store.partition(i)
        labels.append(np.concatenate([partition.train.labels, partition.val.labels]))
        ids.append(np.full(len(labels[-1]), i))
    # The store is divided already. Flower's plot needs a partitioner, so this one repeats the division.
    partitioner = NaturalIdPartitioner(partition_by="partition")
    partitioner.dataset = datasets.Dataset.from_dict(
        {"partition": np.concatenate(ids), "label": np.concatenate(labels)},
        features=datasets.Features(
            partition=datasets.Value("int64"), label=datasets.ClassLabel(names=manifest.classes)
        ),
    )
    settings = "".join(f", {key} {value}" for key, value in manifest.partitioner_settings.items())
    few = len(manifest.classes) <= 20
    with contextlib.redirect_stderr(io.StringIO()):  # the partitioner draws a progress bar
        figure, _, _ = plot_label_distributions(
            partitioner,
            label_name="label",
            cmap="tab20" if few else "nipy_spectral",
            legend=few,
            legend_title="Class",
            figsize=(10, 5),
            title=f"{Path(manifest.source).name}: labels per partition ({manifest.partitioner}{settings})",
        )
    return _save(figure, file)


def _save(figure: "mpl.figure.Figure", file: Path) -> Path:
    from matplotlib import pyplot

    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(file, dpi=120, bbox_inches="tight")
    except OSError as error:
        raise UserError(f"--out {file} cannot be written: {error.strerror}; give another file") from None
    finally:
        pyplot.close(figure)
    return file
