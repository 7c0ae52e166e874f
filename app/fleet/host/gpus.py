"""Which GPU a client trains on, told without touching CUDA: a process that has started CUDA cannot fork."""

from pathlib import Path

from app.environment import Device


def visible_gpus(device: Device, visible: str | None) -> list[str]:
    """The GPUs that the clients of this machine may use, by index or UUID; none for the device ``cpu``.

    CUDA counts from 0, whatever the device files in a container are called.

    Args:
        device: ``BOUQUET_DEVICE``.
        visible: ``CUDA_VISIBLE_DEVICES``; None where it is not set.
    """
    if device.kind == "cpu":
        return []
    if visible is not None:
        return [name for name in visible.split(",") if name.strip() not in ("", "-1")]
    devices = Path("/dev")
    # Under WSL there is one device file for all GPUs.
    files = list(devices.glob("nvidia[0-9]*")) or list(devices.glob("dxg"))
    return [str(position) for position, _ in enumerate(files)]


def choose_gpu(device: Device, visible: str | None, partition: int) -> str | None:
    """The GPU of one client, or None for the CPU. Raises UserError for a GPU that is not there."""
    gpus = visible_gpus(device, visible)
    index = device.choose(len(gpus), partition)
    return None if index is None else gpus[index]
