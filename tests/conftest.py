"""Shared fixtures. Real data: pictures of CIFAR-10 in ``tests/data``."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from container_engine import ROOT, build_images, require_engine
from federation_processes import Fleet


@pytest.fixture(scope="session")
def cifar10() -> Path:
    """Folder with real pictures of CIFAR-10 in hub form: those of the repository, or the folder in BOUQUET_TEST_CIFAR10."""
    folder = Path(os.environ.get("BOUQUET_TEST_CIFAR10", "") or ROOT / "tests" / "data" / "cifar10")
    assert (folder / "plain_text").is_dir(), f"BOUQUET_TEST_CIFAR10: {folder} holds no CIFAR-10 in hub form"
    return folder


@pytest.fixture(autouse=True)
def _no_settings_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The settings of the person who runs the tests must not change them."""
    from app.environment import declared
    from app.fleet.deployment import KINDS, ComposeSettings

    known = {of.variable for kind in KINDS for of in declared(kind.settings).values()}
    images = {of.variable for of in declared(ComposeSettings).values()}  # how this machine builds
    for name in known - images - {"", "CUDA_VISIBLE_DEVICES"}:
        monkeypatch.delenv(name, raising=False)
    yield


@pytest.fixture(scope="session")
def small_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data store of three partitions of the repository's pictures: 400 + 100 each, and 500 to test on."""
    from app.learning.data.prepare import Request, prepare

    store = tmp_path_factory.mktemp("store") / "store"
    prepare(Request(str(ROOT / "tests" / "data" / "cifar10"), num_partitions=3), store)
    return store


@pytest.fixture(scope="session")
def engine() -> None:
    """A Docker engine with Compose v2 that answers."""
    require_engine()


@pytest.fixture(scope="session")
def images(engine: None) -> Iterator[str]:
    """The tag of the images, built from the working tree."""
    tag = f"test-{os.getpid()}"
    build_images(tag)
    yield tag
    names = [f"bouquet-superlink:{tag}", f"bouquet-supernode:{tag}-cpu", f"bouquet-monitor:{tag}"]
    subprocess.run(["docker", "rmi", "--force", *names], capture_output=True, timeout=300)


@pytest.fixture
def fleet(tmp_path: Path, small_store: Path) -> Iterator[Fleet]:
    """A SuperLink and three SuperNodes, as plain processes on loopback."""
    with Fleet(tmp_path, small_store, num_clients=3).taken_down() as started:
        yield started
