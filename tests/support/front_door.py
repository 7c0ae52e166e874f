"""A SuperLink under attack: its members, hostile or not, and what it costs it."""

import asyncio
from collections import Counter
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import grpc
import psutil
from flwr.client.grpc_rere_client.node_auth_client_interceptor import NodeAuthClientInterceptor
from flwr.common.constant import PUBLIC_KEY_HEADER, SIGNATURE_HEADER, TIMESTAMP_HEADER
from flwr.proto.fleet_pb2 import ActivateNodeRequest
from flwr.proto.fleet_pb2_grpc import FleetStub
from flwr.supercore.date import now
from flwr.supercore.primitives.asymmetric import public_key_to_bytes, sign_message
from identity_site import Site

from app.fleet.identity import certificates, keys, members
from app.fleet.identity.client_certificates import client_certificate

MOST_THREADS = 80  # of a SuperLink: gRPC's, the web server's and 16 workers
PULL = "/flwr.proto.Fleet/PullMessages"


@dataclass
class Member:
    """An enrolled key, and what its owner can do with it."""

    site: Site
    name: str
    pair: keys.NodeKey

    @cached_property
    def keys(self) -> Any:
        return keys.load_node_key(self.pair.path)

    @property
    def public_key(self) -> bytes:
        return public_key_to_bytes(self.keys[1])

    def signature(self) -> tuple[tuple[str, str | bytes], ...]:
        """What Flower's node authentication asks of each call."""
        time = now().isoformat()
        return (
            (PUBLIC_KEY_HEADER, self.public_key),
            (TIMESTAMP_HEADER, time),
            (SIGNATURE_HEADER, sign_message(self.keys[0], time.encode())),
        )

    def stub(self) -> Any:
        """Flower's calls over a channel of its own."""
        return FleetStub(
            grpc.intercept_channel(self.site.channel(self.pair.path), NodeAuthClientInterceptor(*self.keys))
        )

    def activate(self, stub: Any) -> int:
        """Come online; returns the node's id."""
        request = ActivateNodeRequest(public_key=self.public_key, heartbeat_interval=30)
        return int(stub.ActivateNode(request, timeout=30).node_id)

    def aio_channel(self, number: int = 0) -> grpc.aio.Channel:
        """A connection of its own for calls without a thread each."""
        return aio_channel(self.site, client_certificate(self.keys[0]), number)


def aio_channel(site: Site, pair: Any = (), number: int = 0) -> grpc.aio.Channel:
    credentials = grpc.ssl_channel_credentials((site.certificates / "ca.crt").read_bytes(), *pair)
    return grpc.aio.secure_channel(
        f"localhost:{site.fleet_port}",
        credentials,
        options=[("grpc.use_local_subchannel_pool", 1), ("bouquet.number", number)],
    )


class Door:
    """A SuperLink with its members."""

    def __init__(self, site: Site) -> None:
        self.site, self._count = site, 0

    @classmethod
    @contextmanager
    def open(cls, folder: Path, **options: str) -> Iterator["Door"]:
        certificates.init_ca(folder / "pki")
        certificates.issue_server(folder / "pki")
        site = Site(folder, folder / "pki", **options)
        try:
            yield cls(site.ready())
        finally:
            site.stop()

    def key(self) -> keys.NodeKey:
        """A key that nobody has enrolled."""
        self._count += 1
        return keys.make_node_key(self.site.folder / f"{self._count}.key")

    def member(self) -> Member:
        """A new member."""
        pair = self.key()
        name = f"member-{self._count}"
        members.enroll(name, pair.public_path, self.site.connection)
        return Member(self.site, name, pair)

    @property
    def process(self) -> psutil.Process:
        return psutil.Process(self.site.superlink.process.pid)

    def connected(self) -> set[int]:
        """The ports from which clients are connected with the Fleet API now, but for the SuperLink's own."""
        served = [c for c in self.process.net_connections("tcp") if c.status == "ESTABLISHED"]
        own = {c.laddr.port for c in served if c.laddr.port != self.site.fleet_port}
        return {c.raddr.port for c in served if c.laddr.port == self.site.fleet_port} - own

    def lets_a_member_in(self) -> None:
        """The operator enrolls a member, which comes online and is served."""
        member = self.member()
        stub = member.stub()
        member.activate(stub)
        assert {m.name: m.status for m in members.members(self.site.connection)}[member.name] == "online"


async def answers(calls: list[Coroutine[Any, Any, Any]], seconds: float) -> Counter[str]:
    """How calls end, by status; those that have not ended after ``seconds`` are ``pending``, and end then."""
    tasks = [asyncio.ensure_future(call) for call in calls]
    done, pending = await asyncio.wait(tasks, timeout=seconds)
    for task in pending:
        task.cancel()
    await asyncio.gather(*pending, return_exceptions=True)
    return Counter(["pending"] * len(pending) + [task.result() for task in done])


async def status(call: Any) -> str:
    """The status of one call."""
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return str(error.code().name)
    return "OK"
