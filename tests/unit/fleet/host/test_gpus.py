"""Which GPU a client gets, from BOUQUET_DEVICE and the GPUs that are visible."""

import pytest

from app.environment import Device
from app.errors import UserError
from app.fleet.host.gpus import choose_gpu, visible_gpus


@pytest.mark.parametrize(
    ("device", "visible", "partition", "gpu"),
    [
        ("auto", "", 0, None),
        ("auto", "-1", 3, None),
        ("auto", "0", 7, "0"),
        ("auto", "2,GPU-5a", 0, "2"),
        ("auto", "2,GPU-5a", 1, "GPU-5a"),
        ("cuda", "2,GPU-5a", 2, "2"),
        ("cuda:1", "2,GPU-5a", 2, "GPU-5a"),
        ("cpu", "2,GPU-5a", 1, None),
        ("auto", "", 1, None),
    ],
)
def test_gpus_are_dealt_round_robin_unless_one_is_named(
    device: str, visible: str, partition: int, gpu: str | None
) -> None:
    assert choose_gpu(Device.parse(device), visible, partition) == gpu


@pytest.mark.parametrize("device", ["cuda", "cuda:0"])
def test_a_gpu_that_is_not_there_is_refused(device: str) -> None:
    with pytest.raises(UserError, match=f"BOUQUET_DEVICE={device}: 0 GPUs are visible; use cpu or auto"):
        choose_gpu(Device.parse(device), "", 0)


def test_a_client_on_the_cpu_sees_no_gpu() -> None:
    assert visible_gpus(Device("cpu"), "0") == []
