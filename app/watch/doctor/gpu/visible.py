"""PyTorch sees the GPUs that clients are to train on."""

import sys

from app.environment import is_whole
from app.fleet.host.gpus import visible_gpus
from app.watch.doctor import programs
from app.watch.doctor.rule import ALL, CLIENT, Finding, Rule, good, skipped, wrong
from app.watch.doctor.site import Site

# In a process of its own: importing PyTorch takes seconds, and what starts CUDA cannot fork.
COUNT = "import torch; print(torch.cuda.device_count(), torch.__version__)"
PATIENCE_S = 60.0


def check(site: Site) -> Finding:
    """Have PyTorch count them."""
    device = site.device
    if device.kind == "cpu" or not site.has_gpu:
        return skipped("clients train on the CPU")
    named = visible_gpus(device, site.visible_gpus)
    if site.visible_gpus is not None and not named:
        return wrong(
            f"a GPU is here, and CUDA_VISIBLE_DEVICES={site.visible_gpus} hides it",
            "unset CUDA_VISIBLE_DEVICES, or set BOUQUET_DEVICE=cpu where the CPU is meant",
        )
    done = programs.run(site, sys.executable, "-c", COUNT, timeout_s=PATIENCE_S)
    words = done.output.split()
    count = int(words[0]) if done.status == 0 and words and is_whole(words[0]) else 0
    if not count:
        build = f"torch {words[1]}" if len(words) > 1 else f"torch ({done.reason})"
        return wrong(
            f"a GPU is here, and {build} sees none: clients would train on the CPU",
            "install the CUDA build of torch (TORCH_INDEX_GPU), and start containers with the profile gpu",
        )
    device.choose(count, 0)
    return good(f"torch {words[1]} sees {count}")


RULE = Rule(
    name="gpu",
    phase="gpu",
    promise="PyTorch sees the GPU",
    roles=frozenset({CLIENT, ALL}),
    check=check,
    required=False,
    needs=("settings", "driver"),
)
