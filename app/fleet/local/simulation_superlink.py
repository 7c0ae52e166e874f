"""Flower's SuperLink for a simulation: ``python -m app.fleet.local.simulation_superlink`` takes its command line.

Of the patches it has only the one that keeps other users of this machine away.
"""

from app.fleet import flower
from app.fleet.deployment import SuperLinkSettings
from app.fleet.patches import same_user
from app.fleet.patches.registry import select


def main() -> None:
    """Become the SuperLink."""
    flower.prepare_environment()
    with flower.imports():
        from flwr.superlink.cli.flower_superlink import flower_superlink

        select((same_user.SUPERLINK,), SuperLinkSettings(insecure=True)).install()
    flower_superlink()


if __name__ == "__main__":
    main()
