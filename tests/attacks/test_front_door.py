"""Strangers stop at the handshake, and no member keeps the others or the operator from being served."""

import asyncio
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from federation_processes import until
from flwr.proto.control_pb2 import RegisterNodeRequest
from flwr.proto.fleet_pb2 import ActivateNodeRequest, PullMessagesRequest, PushMessagesRequest
from flwr.proto.fleet_pb2_grpc import FleetStub
from flwr.proto.message_pb2 import Message, ObjectTree
from flwr.proto.node_pb2 import Node
from flwr.proto.run_pb2 import GetRunRequest
from front_door import MOST_THREADS, PULL, Door, Member, aio_channel, answers, status
from identity_site import STOCK

from app.fleet.control import control
from app.fleet.fleet_api.connections import CONNECTIONS_PER_MEMBER
from app.fleet.host.ports import is_refused
from app.fleet.identity import members
from app.fleet.identity.client_certificates import client_certificate

pytestmark = pytest.mark.federation

MiB = 1024 * 1024


def _unknown_key(_door: Door) -> tuple[bytes, bytes]:
    return client_certificate(ec.generate_private_key(ec.SECP384R1()))


def _expired(door: Door) -> tuple[bytes, bytes]:
    return client_certificate(door.member().keys[0], now=datetime.now(UTC) - timedelta(days=60))


def _revoked(door: Door) -> tuple[bytes, bytes]:
    member = door.member()
    members.revoke(member.name, door.site.connection)
    return client_certificate(member.keys[0])


@pytest.mark.parametrize("make", [_unknown_key, _expired, _revoked])
def test_whoever_is_not_enrolled_stops_at_the_handshake(door: Door, make: Any) -> None:
    address, ca = f"127.0.0.1:{door.site.fleet_port}", door.site.certificates / "ca.crt"
    assert is_refused(address, ca, make(door))
    assert not is_refused(address, ca, client_certificate(door.member().keys[0]))


def test_whoever_shows_no_certificate_stops_at_the_handshake(door: Door) -> None:
    with door.site.channel(None) as channel, pytest.raises(grpc.RpcError) as refusal:
        channel.unary_unary("/flwr.proto.Fleet/GetRun")(b"", timeout=20)
    assert refusal.value.code() == grpc.StatusCode.UNAVAILABLE, "an answer would be that of a handler"
    door.site.superlink.wait_for("Refused 127.0.0.1: it showed no client certificate")


def test_a_member_cannot_sign_with_another_members_key(door: Door) -> None:
    """Flower's signature covers a time only; the channel is bound to the key that signs."""
    thief, victim = door.member(), door.member()
    with door.site.channel(thief.pair.path) as channel, pytest.raises(grpc.RpcError) as refusal:
        channel.unary_unary(PULL)(b"", timeout=20, metadata=victim.signature())
    assert "another key than that of its certificate" in str(refusal.value.details())


def test_the_admitted_connection_of_a_revoked_member_is_ended(door: Door) -> None:
    member = door.member()
    stub = member.stub()
    node = Node(node_id=member.activate(stub))
    held = stub.PullMessages.future(PullMessagesRequest(node=node), timeout=60)
    time.sleep(1)
    connected = door.connected()
    members.revoke(member.name, door.site.connection)
    assert f"the key of {member.name} was revoked" in str(held.exception().details())
    until(lambda: not connected & door.connected(), 20, lambda: "the connection is still there")
    door.lets_a_member_in()


def test_calls_whose_body_never_comes_are_refused_at_once(half_open_door: Door) -> None:
    """1,100 of a stranger, with a certificate optional: the caller is known before a body is read."""

    async def attack() -> Any:
        channels = [aio_channel(half_open_door.site, number=number) for number in range(11)]
        calls = [
            status(channel.stream_unary("/flwr.proto.Fleet/PushMessages")())
            for channel in channels
            for _ in range(100)
        ]
        ended = await answers(calls, 60)
        for channel in channels:
            await channel.close()
        return ended

    ended = asyncio.run(attack())
    assert ended["pending"] == 0 and ended["OK"] == 0, ended
    assert half_open_door.process.num_threads() < MOST_THREADS
    half_open_door.lets_a_member_in()


async def _no_harm_done(door: Door, channels: list[grpc.aio.Channel]) -> None:
    """While the calls of an attack are still there, the server has few threads and serves others."""
    assert door.process.num_threads() < MOST_THREADS
    await asyncio.to_thread(door.lets_a_member_in)
    for channel in channels:
        await channel.close()


def test_a_members_calls_whose_body_never_comes_hurt_itself_only(door: Door) -> None:
    hostile = door.member()

    async def attack() -> Any:
        channels = [hostile.aio_channel(number) for number in range(4)]
        method = "/flwr.proto.Fleet/PushObject"
        calls = [
            channel.stream_unary(method)(metadata=hostile.signature())
            for channel in channels
            for _ in range(75)
        ]
        ended = await answers([status(call) for call in calls], 10)
        await _no_harm_done(door, channels)
        return ended

    ended = asyncio.run(attack())
    assert ended["pending"] <= 16 and ended["RESOURCE_EXHAUSTED"] >= 284, ended


def test_one_request_of_a_node_is_held(door: Door) -> None:
    """600 at once: a newer one ends the older, none costs a thread, and others are served meanwhile."""
    hostile = door.member()
    node = Node(node_id=hostile.activate(hostile.stub()))
    body = PullMessagesRequest(node=node).SerializeToString()

    async def attack() -> Any:
        channels = [hostile.aio_channel(number) for number in range(6)]
        calls = [
            status(channel.unary_unary(PULL)(body, metadata=hostile.signature()))
            for channel in channels
            for _ in range(100)
        ]
        ended = await answers(calls, 15)
        await _no_harm_done(door, channels)
        return ended

    ended = asyncio.run(attack())
    assert ended["pending"] <= 1, ended


def test_a_member_keeps_few_of_the_many_connections_that_it_opens(door: Door) -> None:
    """Each costs the server memory; 2,000 took 280 MB. The latest is served."""
    hostile = door.member()
    node = Node(node_id=hostile.activate(hostile.stub()))
    before = len(door.connected())

    async def attack() -> Any:
        channels = [hostile.aio_channel(number) for number in range(100)]
        for channel in channels:
            answer = FleetStub(channel).GetRun(
                GetRunRequest(node=node, run_id=7), metadata=hostile.signature()
            )
            assert await status(answer) != "UNAVAILABLE"
        held = len(door.connected()) - before
        await _no_harm_done(door, channels)
        return held

    assert asyncio.run(attack()) <= CONNECTIONS_PER_MEMBER


def test_200_idle_members_do_not_need_200_threads(door: Door) -> None:
    with control(door.site.connection) as client:
        idle = [Member(door.site, f"idle-{number}", door.key()) for number in range(200)]
        for member in idle:
            client.RegisterNode(RegisterNodeRequest(public_key=member.public_key, name=member.name))

    async def wait_for_work(member: Member) -> str:
        async with member.aio_channel() as channel:
            fleet, signed = FleetStub(channel), member.signature
            request = ActivateNodeRequest(public_key=member.public_key, heartbeat_interval=60)
            node = Node(node_id=(await fleet.ActivateNode(request, metadata=signed())).node_id)
            return await status(fleet.PullMessages(PullMessagesRequest(node=node), metadata=signed()))

    async def all_wait() -> Any:
        waiting = asyncio.ensure_future(answers([wait_for_work(member) for member in idle], 16))
        await asyncio.sleep(14)  # a request is held for 20 s
        assert door.process.num_threads() < MOST_THREADS
        return await waiting

    ended = asyncio.run(all_wait())
    assert ended == {"pending": 200}, ended


def _push(member: Member, body: bytes) -> grpc.RpcError:
    with member.site.channel(member.pair.path) as channel, pytest.raises(grpc.RpcError) as refusal:
        channel.unary_unary("/flwr.proto.Fleet/PushMessages")(body, timeout=60, metadata=member.signature())
    return refusal.value


def test_a_push_of_many_empty_messages_is_not_unpacked(door: Door) -> None:
    """62 MiB of empty entries took 4.1 GB of memory and 77 s."""
    hostile = door.member()
    node = Node(node_id=hostile.activate(hostile.stub()))
    before = door.process.memory_info().rss

    def entries(size: int) -> bytes:
        empty = PushMessagesRequest(messages_list=[Message()], message_object_trees=[ObjectTree()])
        start = PushMessagesRequest(node=node).SerializeToString()
        return start + empty.SerializeToString() * (size // empty.ByteSize())

    for size in (62 * MiB, 15 * MiB):
        assert _push(hostile, entries(size)).code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    # Small enough to be read: it is counted and looked at once, and refused.
    refused = (grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.INVALID_ARGUMENT)
    assert _push(hostile, entries(MiB - 100)).code() in refused
    assert door.process.memory_info().rss - before < 300 * MiB
    door.lets_a_member_in()


@contextmanager
def idle(door: Door, count: int) -> Iterator[list[socket.socket]]:
    """Connections that never begin the handshake."""
    with ExitStack() as stack:
        address = ("127.0.0.1", door.site.fleet_port)
        yield [stack.enter_context(socket.create_connection(address, 20)) for _ in range(count)]


def test_idle_connections_lock_out_nobody(tmp_path: Path) -> None:
    """300, where a process may open 256 files unless it asks for more."""
    with Door.open(tmp_path, files="256") as door, idle(door, 300) as connections:
        door.lets_a_member_in()
        for connection in connections:
            connection.settimeout(30)
            assert connection.recv(1) == b"", "the server ends what does not complete the handshake"


def test_connections_that_take_all_there_are_leave_the_operator_in(tmp_path: Path) -> None:
    """300, where no more than 400 files can be opened: the Fleet API leaves the others enough."""
    with Door.open(tmp_path, files="400:400") as door, idle(door, 300):
        assert members.members(door.site.connection) == []
        time.sleep(12)  # a handshake has 10 s
        door.lets_a_member_in()


def test_a_body_that_is_no_message_is_refused_without_a_trace(door: Door) -> None:
    hostile = door.member()
    with door.site.channel(hostile.pair.path) as channel:
        for method in ("PullMessages", "PushObject"):
            with pytest.raises(grpc.RpcError) as refusal:
                channel.unary_unary(f"/flwr.proto.Fleet/{method}")(
                    b"\xff" * 500, timeout=20, metadata=hostile.signature()
                )
            assert refusal.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert "Traceback" not in door.site.superlink.text()


def _health(door: Door, seconds: float) -> bytes:
    try:
        with socket.create_connection(("127.0.0.1", door.site.health_port), seconds) as connection:
            connection.settimeout(seconds)
            return connection.recv(32)
    except OSError:
        return b""


def test_health_is_that_of_the_fleet_api(door: Door) -> None:
    """A Fleet API that hangs is not healthy, though its ports are open."""
    until(lambda: _health(door, 20) == b"SERVING\n", 20, lambda: "it is not ready")
    door.process.send_signal(signal.SIGSTOP)
    try:
        assert _health(door, 3) == b""
    finally:
        door.process.send_signal(signal.SIGCONT)
    assert _health(door, 20) == b"SERVING\n"


def test_a_stranger_may_not_ask_for_health(half_open_door: Door) -> None:
    with half_open_door.site.channel(None) as channel, pytest.raises(grpc.RpcError) as refusal:
        channel.unary_unary("/bouquet.Fleet/Health")(b"", timeout=20)
    assert refusal.value.code() == grpc.StatusCode.UNAUTHENTICATED


def test_what_listens_to_others_is_the_fleet_api_alone(door: Door) -> None:
    """Control API and health are on loopback, whatever the Fleet API listens on."""
    listening = {c.laddr for c in door.process.net_connections("tcp") if c.status == "LISTEN"}
    assert {address.ip for address in listening if address.port != door.site.fleet_port} == {"127.0.0.1"}


@pytest.mark.parametrize("kind", ["optional", "required"])
def test_a_stock_supernode_comes_in_where_certificates_are_optional(
    door: Door, half_open_door: Door, kind: str
) -> None:
    site = (half_open_door if kind == "optional" else door).site
    member = (half_open_door if kind == "optional" else door).member()
    client = site.client(key=member.pair.path, script=STOCK)
    try:
        if kind == "optional":
            client.wait_for("SuperNode ID:")
        else:
            site.superlink.wait_for(
                "A stock flower-supernode of flwr 1.39 needs CLIENT_CERTIFICATES=optional"
            )
            assert "SuperNode ID:" not in client.text()
    finally:
        site.forget_clients()
