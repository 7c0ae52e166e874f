"""NVIDIA's driver answers where a GPU is."""

from app.watch.doctor.rule import ALL, CLIENT, SERVER, Finding, Rule, good, skipped, wrong
from app.watch.doctor.site import Site


def check(site: Site) -> Finding:
    """Ask nvidia-smi."""
    gpus = site.gpus
    if gpus is None:
        if not site.has_gpu or site.device.kind == "cpu":
            return skipped("there is no NVIDIA GPU here; clients train on the CPU")
        return skipped("nvidia-smi is not here to tell")  # as in a container without the capability `utility`
    if gpus.status != 0 or not gpus.output.strip():
        return wrong(
            f"nvidia-smi finds no GPU ({gpus.reason or 'it lists none'})",
            "install NVIDIA's driver again for this kernel and restart, or set BOUQUET_DEVICE=cpu",
        )
    lines = [[word.strip() for word in line.split(",")] for line in gpus.output.strip().splitlines()]
    return good(f"{len(lines)} GPU(s), {lines[0][1]}, driver {lines[0][-1]}")


RULE = Rule(
    name="driver",
    phase="gpu",
    promise="NVIDIA's driver answers",
    roles=frozenset({SERVER, CLIENT, ALL}),
    check=check,
    required=False,
)
