"""Where a GPU is, containers can be given it."""

import json

from app.watch.doctor.rule import ALL, CLIENT, Finding, Rule, good, skipped, wrong
from app.watch.doctor.site import Site


def check(site: Site) -> Finding:
    """Look for NVIDIA's runtime, or its devices by the container device interface, in what the engine says."""
    if site.engine is None:
        return skipped("there is no container engine here")
    if not site.has_gpu:
        return skipped("there is no NVIDIA GPU here")
    found = site.engine_info or {}
    runtimes = found.get("Runtimes") or {}
    devices = json.dumps(found.get("DiscoveredDevices") or [])
    if "nvidia" not in runtimes and "nvidia.com/gpu" not in devices:
        return wrong(
            f"{site.engine} cannot give containers the GPU: it has no NVIDIA runtime",
            "install the NVIDIA container toolkit, then `nvidia-ctk runtime configure` and restart the engine; "
            "the profile cpu needs none",
        )
    return good()


RULE = Rule(
    name="nvidia-runtime",
    phase="engine",
    promise="containers can be given the GPU",
    roles=frozenset({CLIENT, ALL}),
    check=check,
    required=False,
    needs=("engine", "settings"),
)
