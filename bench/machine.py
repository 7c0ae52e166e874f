"""The machine and the versions that a measurement belongs to."""

import os
import platform
from importlib.metadata import PackageNotFoundError, distributions, version
from pathlib import Path
from typing import Any

import psutil

from bench.environments import FLARE, RAY


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def describe() -> dict[str, Any]:
    """Processor, cores, memory, GPU, system and versions."""
    import torch

    versions = {"python": platform.python_version()}
    for name in ("torch", "torchvision", "flwr", "flwr-datasets", "numpy"):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "missing"
    for name, environment in (("nvflare", FLARE), ("ray", RAY)):
        found = [d.version for d in distributions(path=[str(environment.site_packages)]) if d.name == name]
        versions[name] = found[0] if found else "not installed"
    return {
        "processor": _processor(),
        "cores": cores(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "gpu": torch.cuda.get_device_name(0) if torch.cuda.is_available() else None,
        "system": platform.platform(terse=True),
        "versions": versions,
    }


def one_line(machine: dict[str, Any]) -> str:
    """The description for a table's caption."""
    versions = machine["versions"]
    gpu = machine["gpu"] or "no GPU"
    return (
        f"{machine['processor']}, {machine['cores']} cores, {machine['memory_gb']:.0f} GB, {gpu}; "
        f"Python {versions['python']}, torch {versions['torch']}, Flower {versions['flwr']}, "
        f"NVIDIA FLARE {versions['nvflare']}, Ray {versions['ray']}"
    )


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
