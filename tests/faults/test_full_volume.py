"""A volume that is full stops nobody else, is named, and work goes on when there is space."""

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from faulty_federation import Federation
from federation_processes import bouquet, until

pytestmark = [
    pytest.mark.federation,
    pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small volume, which needs root"),
]
CONFIG = "num-server-rounds=4 local-epochs=3"


@pytest.fixture
def small_volume(federation: Federation) -> Iterator[Callable[[str], Path]]:
    """Makes a folder of the federation a volume of 8 MiB."""
    volumes: list[Path] = []

    def make(name: str) -> Path:
        folder = federation.folder / name
        folder.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)]
        if subprocess.run(command, capture_output=True).returncode:
            pytest.skip("no volume can be mounted here")
        volumes.append(folder)
        return folder

    try:
        yield make
    finally:
        federation.stop()
        for folder in volumes:
            subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(volume: Path) -> None:
    with (volume / "ballast").open("wb", buffering=0) as ballast:
        try:
            while ballast.write(bytes(4096)):
                pass
        except OSError:
            pass


def make_space(volume: Path) -> None:
    (volume / "ballast").unlink()


def test_a_full_results_volume_is_named_and_the_run_goes_on_when_there_is_space(
    federation: Federation, small_volume: Callable[[str], Path]
) -> None:
    volume = small_volume("results")
    federation.start_all()
    process = federation.train(CONFIG)
    federation.wait_for_round(1)
    fill(volume)
    assert process.wait(240) == 1, federation.log("train")[-3000:]
    said = federation.log("train")
    assert "could not be written" in said and str(volume) in said and "make space and run again" in said, said
    make_space(volume)
    assert federation.train(CONFIG).wait(240) in (0, 3), federation.log("train")[-3000:]
    assert federation.rounds() == [1, 2, 3, 4] and federation.summary()["rounds"] == 4


def test_a_full_state_volume_keeps_new_members_out_and_no_old_one(
    federation: Federation, small_volume: Callable[[str], Path]
) -> None:
    volume = small_volume("state")
    newcomer = federation.folder / "newcomer.pub"
    shutil.move(federation.public / "2.key.pub", newcomer)
    enroll = ("enroll", "newcomer", str(newcomer), *federation.control)
    federation.start_all()
    federation.stop_one("supernode-2")  # it is not enrolled
    process = federation.train(f"{CONFIG} min-available-nodes=2 min-train-nodes=2")
    federation.wait_for_round(1)
    fill(volume)
    refused = bouquet(*enroll)
    assert refused.returncode == 2 and f"{volume / 'nodes.json'} cannot be written" in refused.stderr, refused
    assert "make space" in refused.stderr and "newcomer" not in bouquet("members", *federation.control).stdout
    federation.restart(0)
    assert process.wait(240) in (0, 3), federation.log("train")[-3000:]
    federation.wait_for("superlink", "nodes.json cannot be written")
    until(
        lambda: federation.log("superlink").count("client-0 is online") >= 2,
        30,
        lambda: federation.log("supernode-0"),
    )
    make_space(volume)
    assert bouquet(*enroll).returncode == 0
    federation.kill("superlink")
    federation.superlink()
    federation.supernode(2)
    assert federation.train("num-server-rounds=1 seed=7 strict=true").wait(240) == 0, federation.log("train")
