"""A GPU has memory for the clients that share it."""

import math

from app.environment import is_whole
from app.fleet.host.gpus import visible_gpus
from app.watch.doctor.rule import ALL, CLIENT, Finding, Rule, good, skipped, wrong
from app.watch.doctor.site import Site

# A CUDA context and a small model with its activations. Larger models take more.
CLIENT_MIB = 768


def check(site: Site) -> Finding:
    """Compare what the driver says is free with the share of each client."""
    if site.device.kind == "cpu" or site.gpus is None or site.gpus.status:
        return skipped("clients train on the CPU, or nvidia-smi is not here to tell")
    free = {}
    for line in site.gpus.output.strip().splitlines():
        index, _, _, mib, _ = (word.strip() for word in line.rsplit(",", 4))
        if is_whole(mib):  # a part of a GPU has "[N/A]"
            free[index] = int(mib)
    if not free:
        return skipped("nvidia-smi does not tell the memory of this GPU")
    named = visible_gpus(site.device, site.visible_gpus) or list(free)
    used = {name: mib for name, mib in free.items() if name in named} or free  # named by UUID: all count
    share = math.ceil(max(1, site.clients_here) / len(used))
    index, least = min(used.items(), key=lambda item: item[1])
    if least < share * CLIENT_MIB:
        return wrong(
            f"GPU {index} has {least:,} MiB free for {share} client(s), and even a small model needs {share * CLIENT_MIB:,} MiB",
            "end what else runs there, start fewer clients (NUM_CLIENTS), or set BOUQUET_DEVICE=cpu",
        )
    return good(f"{least:,} MiB are free for {share} client(s)")


RULE = Rule(
    name="gpu-memory",
    phase="gpu",
    promise="the GPU has memory for its clients",
    roles=frozenset({CLIENT, ALL}),
    check=check,
    required=False,
    needs=("settings", "driver", "gpu"),
)
