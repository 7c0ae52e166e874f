"""Which partition this client holds: ten identical replicas need ten different ids.

Order: an id that was given; the pod's ordinal on Kubernetes; a lease. A lease is an exclusive
``flock`` on ``<id>.lock`` in a folder that the replicas share. The kernel drops it when the process
ends, however it ends, so a crash frees the id and gaps in Compose's numbering do not matter.
"""

import fcntl
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from app.errors import UserError


@dataclass(frozen=True)
class PartitionId:
    """A partition id, where it came from, and the lease that must stay open as long as the client lives."""

    id: int
    source: str
    lease: IO[str] | None = None


def _checked(value: str, num_partitions: int, setting: str) -> int:
    try:
        number = int(value)
    except ValueError:
        raise UserError(
            f"{setting}={value!r} is not a whole number; give 0 to {num_partitions - 1}, or leave it empty to lease one"
        ) from None
    if not 0 <= number < num_partitions:
        raise UserError(
            f"{setting}={number} is out of range: with NUM_CLIENTS={num_partitions} the ids are 0 to {num_partitions - 1}; "
            "change it or raise NUM_CLIENTS (and prepare the data again)"
        )
    return number


def pod_ordinal(environment: Mapping[str, str]) -> tuple[str, str] | None:
    """The ordinal that a StatefulSet gave this pod, with the setting it was read from.

    ``POD_INDEX`` holds the label ``apps.kubernetes.io/pod-index`` (Kubernetes 1.28 and newer);
    ``POD_NAME`` ends in the same number on every version.
    """
    if index := environment.get("POD_INDEX", ""):
        return index, "POD_INDEX"
    if name := environment.get("POD_NAME", ""):
        if match := re.fullmatch(r".+-(\d+)", name):
            return match.group(1), "POD_NAME"
        raise UserError(
            f"POD_NAME={name!r} does not end in -<ordinal>; run the clients as a StatefulSet or set PARTITION_ID"
        )
    return None


def lease(folder: Path, num_partitions: int) -> tuple[int, IO[str]]:
    """Take the lowest free id in ``folder``; the returned file holds the lease until it is closed.

    Raises:
        UserError: no id is free, or the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for number in range(num_partitions):
            handle = (folder / f"{number}.lock").open("a+")
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                handle.close()
                continue
            handle.truncate(0)
            handle.write(f"pid {os.getpid()} on {os.uname().nodename}\n")
            handle.flush()
            return number, handle
    except OSError as error:
        raise UserError(
            f"BOUQUET_LEASES={folder} cannot be used ({error.strerror}); give a folder that all replicas can write"
        ) from None
    raise UserError(
        f"no partition is free: all {num_partitions} ids in {folder} are held by running clients; "
        f"scale down to {num_partitions}, or raise NUM_CLIENTS and prepare the data again"
    )


def resolve(environment: Mapping[str, str], num_partitions: int) -> PartitionId:
    """Find this client's partition id.

    Args:
        environment: reads ``PARTITION_ID``, ``POD_INDEX``, ``POD_NAME`` and ``BOUQUET_LEASES``.
        num_partitions: number of partitions of the federation; ids are 0 to ``num_partitions - 1``.

    Raises:
        UserError: no id is free, or the one given is no number or out of range.
    """
    if given := environment.get("PARTITION_ID", ""):
        return PartitionId(_checked(given, num_partitions, "PARTITION_ID"), "PARTITION_ID")
    if ordinal := pod_ordinal(environment):
        value, setting = ordinal
        return PartitionId(_checked(value, num_partitions, setting), setting)
    folder = environment.get("BOUQUET_LEASES", "")
    if not folder:
        raise UserError(
            "no partition id: set PARTITION_ID, or BOUQUET_LEASES to a folder that the replicas share"
        )
    number, handle = lease(Path(folder), num_partitions)
    return PartitionId(number, f"lease in {folder}", handle)
