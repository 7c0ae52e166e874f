"""What another user of this machine can do to a federation: it tries every door, and prints those that open.

python other_user.py UID BUNDLE ADDRESS...

ADDRESS is ``host:port``, ``gcs@host:port`` of Ray's store, or the path of a socket. It becomes the user UID after its imports, which that user may not be
allowed to read. Each line on standard output is a door that let it in.
"""

import hashlib
import os
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

from flwr.client.grpc_rere_client.node_auth_client_interceptor import NodeAuthClientInterceptor
from flwr.common.serde import fab_to_proto
from flwr.proto.control_pb2 import ListRunsRequest, StartRunRequest
from flwr.proto.fleet_pb2 import RegisterNodeFleetRequest
from flwr.proto.fleet_pb2_grpc import FleetStub
from flwr.proto.runtime_pb2 import AcquireTaskRequest
from flwr.supercore.control import ControlHttpClient
from flwr.supercore.fab import Fab
from flwr.supercore.grpc import create_channel
from flwr.supercore.primitives.asymmetric import generate_key_pairs, public_key_to_bytes
from flwr.supercore.runtime import RuntimeHttpClient

if find_spec("ray"):
    from ray._raylet import GcsClient


def control(address: str, bundle: bytes) -> bool:
    """Submit a run: code that the SuperLink's user runs."""
    client = ControlHttpClient.from_server_address(address, True, None, [])
    client.ListRuns(ListRunsRequest())
    fab = Fab(hashlib.sha256(bundle).hexdigest(), bundle, {})
    return client.StartRun(StartRunRequest(fab=fab_to_proto(fab))).HasField("run_id")


def runtime(address: str, _bundle: bytes) -> bool:
    """Take the tasks that wait for a SuperExec, with their tokens."""
    RuntimeHttpClient.from_server_address(address, True, None, []).AcquireTask(AcquireTaskRequest())
    return True


def fleet(address: str, _bundle: bytes) -> bool:
    """Join as a client, which is sent the app and every model."""
    private, public = generate_key_pairs()
    channel = create_channel(address, True, interceptors=[NodeAuthClientInterceptor(private, public)])
    request = RegisterNodeFleetRequest(public_key=public_key_to_bytes(public))
    FleetStub(channel).RegisterNode(request, timeout=5.0)
    return True


def ray(address: str, _bundle: bytes) -> bool:
    """Read the store in which Ray keeps the functions that its workers run."""
    return bool(GcsClient(address=address).internal_kv_keys(b"", None, 5))


def main() -> None:
    """Try every door of every address."""
    user, bundle = int(sys.argv[1]), Path(sys.argv[2]).read_bytes()
    os.setgroups([])
    os.setgid(user)
    os.setuid(user)
    for address in sys.argv[3:]:
        kind, _, place = address.rpartition("@")
        if ":" not in address:
            with suppress(OSError), socket.socket(socket.AF_UNIX) as connection:
                connection.connect(address.replace("@", "\0", 1))
                print(f"connected to {address}", flush=True)
            continue
        for door in DOORS[kind]:
            with suppress(Exception):
                if door(place, bundle):
                    print(f"{door.__name__} at {place}", flush=True)


DOORS: dict[str, list[Callable[[str, bytes], bool]]] = {"": [control, runtime, fleet], "gcs": [ray]}


if __name__ == "__main__":
    main()
