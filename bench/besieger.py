"""A hostile client: many connections, and calls of ten kinds on each of them.

    python -m bench.besieger stranger HOST:PORT CA.CRT 2000 20000 60
    python -m bench.besieger member   HOST:PORT CA.CRT 2000 20000 60 NODE.KEY NODE-ID

The connections stay open to the end, the calls are spread over the given seconds. A stranger has the CA's certificate,
which is public, and no key. A member signs with its own key. Prints one line of JSON: connections, calls, and how many
calls ended with which status.
"""

import json
import os
import resource
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import grpc

SERVICE = "/flwr.proto.Fleet/"
TIMEOUT_S = 2.0
NODE = b"\x0a\x02\x08\x07"  # field 1: a node with id 7
EMPTY_ENTRIES = b"\x12\x00" * 50_000  # 100 kB of empty messages
GARBAGE = os.urandom(10_000)

Kind = tuple[str, bytes, tuple[tuple[str, str | bytes], ...]]

FORGED = (
    ("flwr-public-key-bin", os.urandom(215)),
    ("flwr-timestamp", "2026-01-01T00:00:00+00:00"),
    ("flwr-signature-bin", os.urandom(104)),
)
KINDS: Sequence[Kind] = (
    ("ActivateNode", GARBAGE, ()),
    ("GetRun", b"", FORGED),
    ("PullMessages", NODE, FORGED),
    ("PushMessages", NODE + EMPTY_ENTRIES, ()),
    ("PushObject", NODE + bytes(100_000), FORGED),
    ("PullObject", NODE, ()),
    ("ConfirmMessageReceived", NODE, ()),
    ("GetFab", GARBAGE, (("x-noise", "n" * 4000),)),
    ("UnregisterNode", NODE, FORGED),
    ("NoSuchMethod\x1b[2J".encode("unicode_escape").decode(), b"", ()),
)


def own_kinds(node_id: int) -> Sequence[Kind]:
    """What an enrolled member may call. It does not go online, because then it would be asked to train."""
    from flwr.proto import fab_pb2, fleet_pb2, message_pb2, run_pb2
    from flwr.proto.node_pb2 import Node

    node, name = Node(node_id=node_id), "ab" * 32
    tree = message_pb2.ObjectTree(
        object_id=name, children=[message_pb2.ObjectTree(object_id=f"{child:064x}") for child in range(1000)]
    )
    message = message_pb2.Message(
        metadata=message_pb2.Metadata(run_id=7, message_id=name, src_node_id=node_id)
    )
    requests = (
        ("PullMessages", fleet_pb2.PullMessagesRequest(node=node)),
        ("PushMessages", fleet_pb2.PushMessagesRequest(node=node)),
        (
            "PushMessages",
            fleet_pb2.PushMessagesRequest(
                node=node, messages_list=[message], message_object_trees=[tree], clientapp_runtime_list=[0.1]
            ),
        ),
        (
            "PushObject",
            message_pb2.PushObjectRequest(node=node, run_id=7, object_id=name, object_content=bytes(100_000)),
        ),
        ("PullObject", message_pb2.PullObjectRequest(node=node, run_id=7, object_id=name)),
        (
            "ConfirmMessageReceived",
            message_pb2.ConfirmMessageReceivedRequest(node=node, run_id=7, message_object_id=name),
        ),
        ("GetRun", run_pb2.GetRunRequest(node=node, run_id=7)),
        ("GetFab", fab_pb2.GetFabRequest(node=node, run_id=7, hash_str="\x1b[2J")),
    )
    made = [(method, request.SerializeToString(), ()) for method, request in requests]
    return [*made, ("PushMessages", GARBAGE, ()), ("NoSuchMethod", b"", ())]


def channel(address: str, ca: bytes, key: Path | None) -> grpc.Channel:
    """A connection of its own; with ``key`` as a SuperNode of that key makes it."""
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0)]
    if key is None:
        return grpc.secure_channel(address, grpc.ssl_channel_credentials(ca), options)
    from flwr.client.grpc_rere_client.node_auth_client_interceptor import NodeAuthClientInterceptor

    from app.fleet.identity.client_certificates import client_certificate
    from app.fleet.identity.keys import load_node_key

    pair = load_node_key(key)
    shown = grpc.ssl_channel_credentials(ca, *client_certificate(pair[0]))
    return grpc.intercept_channel(
        grpc.secure_channel(address, shown, options), NodeAuthClientInterceptor(*pair)
    )


def besiege(
    address: str,
    ca: bytes,
    connections: int,
    calls: int,
    seconds: float,
    kinds: Sequence[Kind],
    key: Path | None,
) -> dict[str, Any]:
    """Open the connections one after another and make the calls on them. Returns what came of it."""
    opened: list[grpc.Channel] = []
    ended: Counter[str] = Counter()
    waiting: list[Any] = []
    begin = time.monotonic()
    for number in range(connections):
        time.sleep(max(0.0, begin + seconds * number / connections - time.monotonic()))
        opened.append(channel(address, ca, key))
        for call in range(number * calls // connections, (number + 1) * calls // connections):
            method, body, metadata = kinds[call % len(kinds)]
            made = opened[-1].unary_unary(SERVICE + method)
            waiting.append(made.future(body, timeout=TIMEOUT_S, metadata=metadata))
        while len(waiting) > 400 or (waiting and number == connections - 1):
            ended[_status(waiting.pop(0))] += 1
    for each in opened:
        each.close()
    return {"connections": len(opened), "calls": sum(ended.values()), "ended": dict(ended)}


def _status(call: Any) -> str:
    try:
        call.result()
    except grpc.RpcError as error:
        return str(error.code().name)
    except grpc.FutureCancelledError:
        return "CANCELLED"
    return "OK"


def main(who: str, address: str, ca: str, connections: str, calls: str, seconds: str, *own: str) -> None:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(most, 65_536), most))
    os.nice(19)  # a real besieger has cores of its own
    key, kinds = (Path(own[0]), own_kinds(int(own[1]))) if who == "member" else (None, KINDS)
    ca_pem = Path(ca).read_bytes()
    print(json.dumps(besiege(address, ca_pem, int(connections), int(calls), float(seconds), kinds, key)))


if __name__ == "__main__":
    main(*sys.argv[1:])
