"""Which GPU a client gets, from what the environment says."""

import pytest

from app.errors import UserError
from app.fleet.gpus import choose_gpu, visible_gpus


@pytest.mark.parametrize(
    ("environment", "partition", "gpu"),
    [
        ({"CUDA_VISIBLE_DEVICES": ""}, 0, None),
        ({"CUDA_VISIBLE_DEVICES": "-1"}, 3, None),
        ({"CUDA_VISIBLE_DEVICES": "0"}, 7, "0"),
        ({"CUDA_VISIBLE_DEVICES": "2,GPU-5a"}, 0, "2"),
        ({"CUDA_VISIBLE_DEVICES": "2,GPU-5a"}, 1, "GPU-5a"),
        ({"CUDA_VISIBLE_DEVICES": "2,GPU-5a", "BOUQUET_DEVICE": "cuda"}, 2, "2"),
        ({"CUDA_VISIBLE_DEVICES": "2,GPU-5a", "BOUQUET_DEVICE": "cuda:1"}, 2, "GPU-5a"),
        ({"CUDA_VISIBLE_DEVICES": "2,GPU-5a", "BOUQUET_DEVICE": "cpu"}, 1, None),
        ({"CUDA_VISIBLE_DEVICES": "", "BOUQUET_DEVICE": "auto"}, 1, None),
    ],
)
def test_gpus_are_dealt_round_robin_unless_one_is_named(
    environment: dict[str, str], partition: int, gpu: str | None
) -> None:
    assert choose_gpu(environment, partition) == gpu


@pytest.mark.parametrize("device", ["cuda", "cuda:0"])
def test_a_gpu_that_is_not_there_is_refused(device: str) -> None:
    with pytest.raises(UserError, match=f"BOUQUET_DEVICE={device}: 0 GPUs are visible; use cpu or auto"):
        choose_gpu({"BOUQUET_DEVICE": device, "CUDA_VISIBLE_DEVICES": ""}, 0)


@pytest.mark.parametrize("device", ["gpu", "cpu:0", "auto:1", "cuda:one"])
def test_what_is_no_device_is_refused(device: str) -> None:
    with pytest.raises(UserError, match=f"BOUQUET_DEVICE={device} must be auto, cpu, cuda or cuda:N"):
        choose_gpu({"BOUQUET_DEVICE": device, "CUDA_VISIBLE_DEVICES": "0,1"}, 0)


def test_a_client_on_the_cpu_sees_no_gpu() -> None:
    assert visible_gpus({"BOUQUET_DEVICE": "cpu", "CUDA_VISIBLE_DEVICES": "0"}) == []
