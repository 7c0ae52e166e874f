# NVIDIA FLARE is not where the types are checked.
# mypy: disable-error-code="import-not-found,misc"
"""A FLARE client as its documentation teaches, with the benchmark's work around its training."""

import nvflare.client as flare

from bench.faults.work import training
from bench.flare.local_work import LocalWork


def main() -> None:
    """Serve rounds until the job ends."""
    flare.init()
    work = LocalWork(flare.get_site_name())
    while flare.is_running():
        received = flare.receive()
        if received is None:
            break
        number = received.current_round or 0
        with training(work.partition + 1, number + 1):
            params, _, count = work.round(received.params, number)
        flare.send(flare.FLModel(params=params, meta={"NUM_STEPS_CURRENT_ROUND": count}))


if __name__ == "__main__":
    main()
