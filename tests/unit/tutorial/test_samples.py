"""`bouquet samples` saves pictures a person can look at."""

from pathlib import Path

import numpy as np
import pytest
from pictures_on_disk import hub_folder
from PIL import Image

from app.errors import UserError
from app.learning.data.prepare import Request, prepare
from app.learning.data.store import Store
from app.tutorial.samples import save_label_distribution, save_samples


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_samples_and_distribution_are_pictures(tmp_path: Path, mode: str) -> None:
    source = hub_folder(tmp_path / "source", train=60, test=10, mode=mode)
    prepare(Request(str(source), num_partitions=2), tmp_path / "store")
    store = Store.open(tmp_path / "store")
    # 24 training pictures: fewer than the grid has places.
    for file in (
        save_samples(store, 1, tmp_path / "new" / "samples.png"),
        save_label_distribution(store, tmp_path / "new" / "labels.png"),
    ):
        with Image.open(file) as picture:
            assert picture.format == "PNG" and picture.width > 900
            assert len(np.unique(np.asarray(picture))) > 50


def test_partition_out_of_range_and_unwritable_file(tmp_path: Path) -> None:
    prepare(Request(str(hub_folder(tmp_path / "source", train=60)), num_partitions=2), tmp_path / "store")
    store = Store.open(tmp_path / "store")
    with pytest.raises(UserError, match="partition-id 2 is out of range"):
        save_samples(store, 2, tmp_path / "samples.png")
    with pytest.raises(UserError, match="cannot be written"):
        save_samples(store, 0, tmp_path / "store" / "manifest.json" / "samples.png")
