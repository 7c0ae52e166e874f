# NVIDIA FLARE is not where the types are checked.
# mypy: disable-error-code="import-not-found,misc"
"""A FLARE client as its documentation teaches: the Client API in the client's job process."""

import nvflare.client as flare

from bench.flare.local_work import LocalWork


def main() -> None:
    """Serve rounds until the job ends."""
    flare.init()
    work = LocalWork(flare.get_site_name())
    while flare.is_running():
        received = flare.receive()
        if received is None:
            break
        params, metrics, count = work.round(received.params, received.current_round or 0)
        flare.send(
            flare.FLModel(params=params, metrics=metrics or None, meta={"NUM_STEPS_CURRENT_ROUND": count})
        )


if __name__ == "__main__":
    main()
