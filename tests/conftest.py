"""Shared fixtures. Real data: a folder in hub form, from BOUQUET_TEST_CIFAR10 or ../shared/data/cifar10."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from container_engine import ROOT, build_images, require_engine


@pytest.fixture(scope="session")
def cifar10() -> Path:
    """Folder with CIFAR-10 as Parquet files, as ``datasets.load_dataset`` reads it."""
    folder = Path(os.environ.get("BOUQUET_TEST_CIFAR10", "") or ROOT.parent / "shared" / "data" / "cifar10")
    if not (folder / "plain_text").is_dir():
        pytest.skip("no CIFAR-10 here: set BOUQUET_TEST_CIFAR10 to a folder in hub form")
    return folder


@pytest.fixture(autouse=True)
def _no_settings_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The settings of the person who runs the tests must not change them."""
    for name in list(os.environ):
        if name.startswith("BOUQUET_") and not name.startswith(("BOUQUET_TEST_", "BOUQUET_REQUIRE_")):
            monkeypatch.delenv(name)
    for name in (
        "PARTITION_ID",
        "POD_INDEX",
        "POD_NAME",
        "NUM_CLIENTS",
        "DATASET",
        "ROUNDS",
        "CONFIG",
        "SUPERLINK",
    ):
        monkeypatch.delenv(name, raising=False)
    yield


@pytest.fixture(scope="session")
def small_cifar10(cifar10: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in hub form with the first 3,000 training and 1,000 test pictures of CIFAR-10."""
    import pyarrow.parquet as parquet

    folder = tmp_path_factory.mktemp("cifar10") / "plain_text"
    folder.mkdir()
    for split, rows in (("train", 3000), ("test", 1000)):
        file = next((cifar10 / "plain_text").glob(f"{split}-*.parquet"))
        parquet.write_table(
            parquet.read_table(file).slice(0, rows), folder / f"{split}-00000-of-00001.parquet"
        )
    return folder.parent


@pytest.fixture(scope="session")
def small_store(small_cifar10: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data store of three partitions of ``small_cifar10``: 800 + 200 pictures each."""
    from app.learning.prepare import prepare

    store = tmp_path_factory.mktemp("store") / "store"
    prepare(str(small_cifar10), store, num_partitions=3)
    return store


@pytest.fixture(scope="session")
def engine() -> None:
    """A Docker engine with Compose v2 that answers."""
    require_engine()


@pytest.fixture(scope="session")
def images(engine: None) -> Iterator[str]:
    """The tag of both images, built from the working tree."""
    tag = f"test-{os.getpid()}"
    build_images(tag)
    yield tag
    names = [f"bouquet-superlink:{tag}", f"bouquet-supernode:{tag}-cpu"]
    subprocess.run(["docker", "rmi", "--force", *names], capture_output=True, timeout=300)
