"""Which partition this client holds: ten identical replicas need ten different ids.

An id that was given comes first, then the ordinal of a Kubernetes pod, then a lease. A lease is an exclusive ``flock``
on ``<id>.lock`` in a folder that the replicas share. The kernel drops it when the process ends in any way, so a crash
frees the id. Gaps in Compose's numbering do not matter.
"""

import fcntl
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from app.environment import whole
from app.errors import UserError


@dataclass(frozen=True)
class PartitionId:
    """A partition id, its source, and the lease, which must stay open as long as the client lives."""

    id: int
    source: str
    lease: IO[str] | None = None


def _checked(value: str, num_clients: int, setting: str) -> int:
    try:
        return int(whole(0, num_clients - 1).parse(value))
    except ValueError as error:
        raise UserError(
            f"{setting}={value!r} must be {error} with NUM_CLIENTS={num_clients}; "
            "leave it empty to lease one, or raise NUM_CLIENTS and prepare the data again"
        ) from None


def pod_ordinal(pod_index: str, pod_name: str) -> tuple[str, str] | None:
    """The ordinal that a StatefulSet gave this pod, with the setting it was read from.

    ``POD_INDEX`` holds the label ``apps.kubernetes.io/pod-index`` (Kubernetes 1.28 and newer).
    ``POD_NAME`` ends in the same number on every version.
    """
    if pod_index:
        return pod_index, "POD_INDEX"
    if pod_name:
        if match := re.fullmatch(r".+-([0-9]+)", pod_name):
            return match.group(1), "POD_NAME"
        raise UserError(
            f"POD_NAME={pod_name!r} does not end in -<ordinal>; run the clients as a StatefulSet or set PARTITION_ID"
        )
    return None


def lease(folder: Path, num_clients: int) -> tuple[int, IO[str]]:
    """Take the lowest free id in ``folder``; the returned file holds the lease until it is closed.

    Raises:
        UserError: no id is free, or the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for number in range(num_clients):
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
        raise _unusable(folder, error) from None
    raise none_free(folder, num_clients)


def none_free(folder: Path, num_clients: int) -> UserError:
    """Every id is held by a client."""
    return UserError(
        f"no partition is free: all {num_clients} ids in {folder} are held by running clients; "
        f"scale down to {num_clients}, or raise NUM_CLIENTS and prepare the data again"
    )


def _unusable(folder: Path, error: OSError) -> UserError:
    return UserError(
        f"BOUQUET_LEASES={folder} cannot be used ({error.strerror}); give a folder that all replicas can write"
    )


def free_ids(folder: Path, num_clients: int) -> list[int]:
    """The ids in ``folder`` that no client holds at this moment; nothing is taken or written. Raises UserError."""
    free = []
    for number in range(num_clients):
        try:
            with (folder / f"{number}.lock").open() as handle:
                fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            continue
        except FileNotFoundError:
            pass
        except OSError as error:
            raise _unusable(folder, error) from None
        free.append(number)
    return free


def resolve(
    num_clients: int,
    partition_id: str = "",
    pod_index: str = "",
    pod_name: str = "",
    leases: Path | None = None,
) -> PartitionId:
    """Find this client's partition id, from 0 to ``num_clients - 1``.

    Args:
        num_clients: number of clients of the federation.
        partition_id: ``PARTITION_ID``.
        pod_index: ``POD_INDEX``.
        pod_name: ``POD_NAME``.
        leases: ``BOUQUET_LEASES``.

    Raises:
        UserError: no id is free, or the given one is not an id of this federation.
    """
    if partition_id:
        return PartitionId(_checked(partition_id, num_clients, "PARTITION_ID"), "PARTITION_ID")
    if ordinal := pod_ordinal(pod_index, pod_name):
        value, setting = ordinal
        return PartitionId(_checked(value, num_clients, setting), setting)
    if leases is None:
        raise UserError(
            "no partition id: set PARTITION_ID, or BOUQUET_LEASES to a folder that the replicas share"
        )
    number, handle = lease(leases, num_clients)
    return PartitionId(number, f"lease in {leases}", handle)
