"""Shared fixtures. Real data: a folder in hub form, from BOUQUET_TEST_CIFAR10 or ../shared/data/cifar10."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


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
