"""Which GPU a client trains on, told without touching CUDA: what has started CUDA cannot fork."""

from collections.abc import Mapping
from pathlib import Path

from app.errors import UserError


def visible_gpus(environment: Mapping[str, str]) -> list[str]:
    """The GPUs that the clients of this machine may use, by index or UUID; none with ``BOUQUET_DEVICE=cpu``.

    CUDA counts from 0 whatever the device files in a container are called.
    """
    if environment.get("BOUQUET_DEVICE") == "cpu":
        return []
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [device for device in visible.split(",") if device.strip() not in ("", "-1")]
    devices = Path("/dev")
    # Under WSL there is one device file, whatever it stands for.
    files = list(devices.glob("nvidia[0-9]*")) or list(devices.glob("dxg"))
    return [str(position) for position, _ in enumerate(files)]


def choose_gpu(environment: Mapping[str, str], partition: int) -> str | None:
    """The GPU of one client: the one that ``BOUQUET_DEVICE`` names, else round-robin by partition id.

    Returns None where there is none, or none is wanted.

    Raises:
        UserError: ``BOUQUET_DEVICE`` is no device, or a GPU that is not there.
    """
    wanted = environment.get("BOUQUET_DEVICE") or "auto"
    kind, _, number = wanted.partition(":")
    if kind not in ("auto", "cpu", "cuda") or (number and not (kind == "cuda" and number.isdigit())):
        raise UserError(f"BOUQUET_DEVICE={wanted} must be auto, cpu, cuda or cuda:N")
    gpus = visible_gpus(environment)
    index = int(number) if number else partition % max(len(gpus), 1)
    if kind == "cuda" and index >= len(gpus):
        raise UserError(f"BOUQUET_DEVICE={wanted}: {len(gpus)} GPUs are visible; use cpu or auto")
    return gpus[index] if gpus else None
