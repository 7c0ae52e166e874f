"""Who does not belong is refused with a line on both ends, and the federation goes on."""

import contextlib
import socket
import ssl
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from federation_processes import bouquet
from identity_site import Site

from app.errors import UserError
from app.fleet.control import Connection
from app.fleet.host.ports import wait_for_superlink
from app.fleet.identity import certificates, keys, members
from app.fleet.identity.client_certificates import client_certificate
from app.fleet.identity.members import Member
from app.fleet.patches.superlink.admission import REGISTRY
from app.fleet.patches.supernode.connection_errors import REFUSED
from app.rounds.screening import read_client_names

pytestmark = pytest.mark.federation


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """One SuperLink for all tests of this module."""
    folder = tmp_path_factory.mktemp("site")
    certificates.init_ca(folder / "pki")
    certificates.issue_server(folder / "pki")
    site = Site(folder, folder / "pki")
    try:
        yield site.ready()
    finally:
        site.stop()


@pytest.fixture(autouse=True)
def _clients_end_with_their_test(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if "site" in request.fixturenames:
        request.getfixturevalue("site").forget_clients()


def key(tmp_path: Path, name: str = "node") -> keys.NodeKey:
    return keys.make_node_key(tmp_path / f"{name}.key")


def member(site: Site, name: str) -> Member:
    return next(member for member in members.members(site.connection) if member.name == name)


def still_lets_members_in(site: Site, tmp_path: Path) -> None:
    """The federation is unharmed: an enrolled client connects."""
    name = f"after-{tmp_path.name}"[:60]
    pair = key(tmp_path, "after")
    members.enroll(name, pair.public_path, site.connection)
    site.client(key=pair.path).wait_for("SuperNode ID:")
    site.superlink.wait_for(f"{name} is online")
    assert member(site, name).status == "online"


def test_an_enrolled_client_is_let_in_and_listed(site: Site, tmp_path: Path) -> None:
    pair = key(tmp_path)
    line = members.enroll("hospital-a", pair.public_path, site.connection)
    assert pair.fingerprint in line
    assert member(site, "hospital-a").status == "enrolled"
    assert member(site, "hospital-a").last_seen is None
    site.client(key=pair.path).wait_for("SuperNode ID:")
    seen = member(site, "hospital-a")
    assert (seen.status, seen.fingerprint) == ("online", pair.fingerprint)
    assert seen.last_seen is not None
    assert abs(datetime.now(UTC) - seen.last_seen) < timedelta(minutes=1)
    shown = members.table(members.members(site.connection))
    assert "hospital-a" in shown
    assert pair.fingerprint in shown
    assert read_client_names(site.folder / REGISTRY)[seen.node_id] == "hospital-a"


def test_a_plaintext_client_is_refused(site: Site, tmp_path: Path) -> None:
    client = site.client(insecure=True)
    client.wait_for("the SuperLink closed the connection: it wants TLS")
    site.superlink.wait_for("did not speak TLS as this server does")
    assert "SuperNode ID" not in client.text()
    still_lets_members_in(site, tmp_path)


def test_a_client_that_speaks_http_is_told_apart(site: Site, tmp_path: Path) -> None:
    """What a SuperNode of flwr 1.40 or later sends first: HTTP/1.1 over TLS without h2, and no certificate."""
    context = ssl.create_default_context(cafile=site.certificates / "ca.crt")
    context.set_alpn_protocols(["http/1.1"])
    with (
        contextlib.suppress(OSError),  # it is cut off
        socket.create_connection(("127.0.0.1", site.fleet_port), timeout=20) as connection,
        context.wrap_socket(connection, server_hostname="localhost") as stream,
    ):
        stream.sendall(
            b"POST /v1/fleet/activate-node HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n"
        )
        assert not stream.recv(1)
    site.superlink.wait_for("one of 1.40 or later speaks HTTP and cannot join")
    still_lets_members_in(site, tmp_path)


def test_a_client_with_another_ca_refuses_the_server(site: Site, tmp_path: Path) -> None:
    certificates.init_ca(tmp_path / "other")
    client = site.client(key=key(tmp_path).path, ca=tmp_path / "other" / "ca.crt")
    assert client.wait() != 0
    assert "not signed by this client's CA: BOUQUET_CA must be" in client.text()
    site.superlink.wait_for("127.0.0.1 left before TLS was agreed")
    still_lets_members_in(site, tmp_path)


def test_a_client_without_a_key_is_refused(site: Site, tmp_path: Path) -> None:
    client = site.client()
    client.wait_for("it wants TLS and a certificate")
    site.superlink.wait_for("Refused 127.0.0.1: it showed no client certificate")
    assert "SuperNode ID" not in client.text()
    still_lets_members_in(site, tmp_path)


def test_a_key_that_is_not_enrolled_is_refused(site: Site, tmp_path: Path) -> None:
    pair = key(tmp_path)
    client = site.client(key=pair.path)
    assert client.wait() != 0
    assert f"refused this client: its key {pair.fingerprint} is not enrolled" in client.text()
    site.superlink.wait_for("Refused 127.0.0.1: its key is not enrolled, or was revoked")
    still_lets_members_in(site, tmp_path)


def test_a_revoked_client_is_cut_off_within_a_minute_and_stays_out(site: Site, tmp_path: Path) -> None:
    pair = key(tmp_path)
    members.enroll("hospital-r", pair.public_path, site.connection)
    client = site.client(key=pair.path)
    client.wait_for("SuperNode ID:")
    members.revoke("hospital-r", site.connection)
    client.wait(60)
    assert "the SuperLink refused this client: the key of hospital-r was revoked" in client.text()
    site.superlink.wait_for("Refused 127.0.0.1: the key of hospital-r was revoked")
    again = site.client(key=pair.path)
    assert again.wait() != 0
    assert f"its key {pair.fingerprint} is not enrolled, or was revoked" in again.text()
    assert member(site, "hospital-r").status == "revoked"
    with pytest.raises(UserError, match="was revoked as hospital-r and stays out"):
        members.enroll("hospital-r", pair.public_path, site.connection)
    still_lets_members_in(site, tmp_path)


def test_a_client_that_was_given_a_new_key_keeps_its_name(site: Site, tmp_path: Path) -> None:
    members.enroll("hospital-n", key(tmp_path, "old").public_path, site.connection)
    new = key(tmp_path, "new")
    with pytest.raises(UserError, match=r"enrolled with another key .*bouquet revoke hospital-n"):
        members.enroll("hospital-n", new.public_path, site.connection)
    members.revoke("hospital-n", site.connection)
    members.enroll("hospital-n", new.public_path, site.connection)
    site.client(key=new.path).wait_for("SuperNode ID:")


def test_the_same_key_online_twice_is_refused(site: Site, tmp_path: Path) -> None:
    pair = key(tmp_path)
    members.enroll("hospital-t", pair.public_path, site.connection)
    first = site.client(key=pair.path)
    first.wait_for("SuperNode ID:")
    second = site.client(key=pair.path)
    second.wait_for("hospital-t is online already with the same key")
    assert "SuperNode ID" not in second.text()
    site.superlink.wait_for("Refused 127.0.0.1: hospital-t is online already with the same key")
    assert first.process.poll() is None
    assert member(site, "hospital-t").status == "online"
    first.stop()
    second.wait_for("SuperNode ID:")


def test_enrolling_again_says_so_and_a_key_has_one_name(site: Site, tmp_path: Path) -> None:
    pair = key(tmp_path)
    members.enroll("hospital-e", pair.public_path, site.connection)
    assert "is enrolled already" in members.enroll("hospital-e", pair.public_path, site.connection)
    with pytest.raises(UserError, match="is already enrolled as hospital-e"):
        members.enroll("hospital-f", pair.public_path, site.connection)
    with pytest.raises(UserError, match=r"nobody is enrolled as hospital-f: there are .*hospital-e"):
        members.revoke("hospital-f", site.connection)


def test_keys_of_one_host_are_enrolled_together(site: Site, tmp_path: Path) -> None:
    for number in range(3):
        keys.make_node_key(tmp_path / f"{number}.key")
    assert len(members.enroll_directory(tmp_path, site.connection)) == 3
    assert all("already" in line for line in members.enroll_directory(tmp_path, site.connection))
    assert {f"client-{number}" for number in range(3)} <= {m.name for m in members.members(site.connection)}


def test_the_control_api_is_named_when_it_cannot_be_used(site: Site, tmp_path: Path) -> None:
    certificates.init_ca(tmp_path / "other")
    with pytest.raises(UserError, match="does not answer: start the SuperLink"):
        members.members(Connection("127.0.0.1:1", site.connection.ca))
    with pytest.raises(UserError, match="if it uses TLS"):
        members.members(Connection(site.connection.address))
    with pytest.raises(UserError, match="did not sign"):
        members.members(Connection(site.connection.address, tmp_path / "other" / "ca.crt"))


def test_nobody_can_put_another_client_online(site: Site, tmp_path: Path) -> None:
    """Flower would let anyone activate a node whose public key they know, and so lock its owner out."""
    import grpc
    from flwr.client.grpc_rere_client.node_auth_client_interceptor import NodeAuthClientInterceptor
    from flwr.proto.fleet_pb2 import ActivateNodeRequest
    from flwr.proto.fleet_pb2_grpc import FleetStub

    victim, attacker = key(tmp_path, "victim"), key(tmp_path, "attacker")
    members.enroll("hospital-v", victim.public_path, site.connection)
    members.enroll("hospital-x", attacker.public_path, site.connection)
    channel = grpc.intercept_channel(
        site.channel(attacker.path), NodeAuthClientInterceptor(*keys.load_node_key(attacker.path))
    )
    with pytest.raises(grpc.RpcError, match="asked to activate a key that is not its own"):
        FleetStub(channel).ActivateNode(
            ActivateNodeRequest(public_key=member(site, "hospital-v").public_key, heartbeat_interval=30),
            timeout=20,
        )
    channel.close()
    assert member(site, "hospital-v").status == "enrolled"
    site.client(key=victim.path).wait_for("SuperNode ID:")


def test_calls_that_are_garbage_are_refused(site: Site, tmp_path: Path) -> None:
    import grpc

    pair = key(tmp_path)
    members.enroll("hospital-g", pair.public_path, site.connection)
    channel = site.channel(pair.path)
    call = channel.unary_unary("/flwr.proto.Fleet/ActivateNode")
    for metadata in (
        [],
        [("flwr-public-key-bin", b"\xff" * 64), ("flwr-timestamp", "x"), ("flwr-signature-bin", b"\x00")],
    ):
        with pytest.raises(grpc.RpcError) as refusal:
            call(b"\xff\x00" * 500, timeout=20, metadata=metadata)
        assert refusal.value.code() == grpc.StatusCode.UNAUTHENTICATED
    channel.close()
    still_lets_members_in(site, tmp_path)


@pytest.mark.parametrize(
    ("fault", "client_says", "server_says"),
    [
        (
            "name",
            "certificate does not name the host in SUPERLINK",
            "A client dials this server as localhost, which its certificate does not name",
        ),
        ("expired", "the SuperLink's certificate has expired", "left before TLS was agreed"),
    ],
)
def test_a_server_that_cannot_prove_who_it_is_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str, client_says: str, server_says: str
) -> None:
    """`bouquet superlink` does not even start with these certificates; here it is made to."""
    pki = tmp_path / "pki"
    certificates.init_ca(pki)
    if fault == "name":
        monkeypatch.setattr(certificates, "ALWAYS_NAMED", ("superlink",))
        certificates.issue_server(pki, ["elsewhere.example.org"])
    else:
        certificates.issue_server(pki, now=datetime.now(UTC) - timedelta(days=800))
        with pytest.raises(UserError, match=r"server\.crt expired on"):
            keys.check_server_identity(pki)
    site = Site(tmp_path, pki)
    try:
        site.superlink.wait_for("Fleet API (gRPC-rere)")
        client = site.client(key=key(tmp_path).path)
        client.wait_for(client_says)
        site.superlink.wait_for(server_says)
        assert "SuperNode ID" not in client.text()
    finally:
        site.stop()


def test_a_client_that_looks_whether_the_superlink_is_there_is_no_warning(tmp_path: Path) -> None:
    certificates.init_ca(tmp_path / "pki")
    certificates.issue_server(tmp_path / "pki")
    site = Site(tmp_path, tmp_path / "pki")
    try:
        site.ready()
        pair = key(tmp_path)
        members.enroll("hospital-k", pair.public_path, site.connection)
        certificate = client_certificate(keys.load_node_key(pair.path)[0])
        assert wait_for_superlink(f"127.0.0.1:{site.fleet_port}", tmp_path / "pki" / "ca.crt", certificate)
        time.sleep(1)
        assert "before TLS" not in site.superlink.text()
        wait_for_superlink(f"127.0.0.1:{site.fleet_port}", None)
        site.superlink.wait_for("127.0.0.1 left before TLS was agreed")
    finally:
        site.stop()


def test_grpcs_own_lines_do_not_reach_the_log(site: Site) -> None:
    """Runs last: by then handshakes of every kind have happened."""
    assert "handshaker.cc" not in site.superlink.text()
    assert "Source Location Trace" not in site.superlink.text()
    assert site.superlink.process.poll() is None


def test_the_members_survive_a_killed_superlink(site: Site, tmp_path: Path) -> None:
    staying, leaving = key(tmp_path, "staying"), key(tmp_path, "leaving")
    members.enroll("hospital-s", staying.public_path, site.connection)
    members.enroll("hospital-l", leaving.public_path, site.connection)
    members.revoke("hospital-l", site.connection)
    client = site.client(key=staying.path)
    client.wait_for("SuperNode ID:")
    before = member(site, "hospital-s")
    site.restart()
    assert member(site, "hospital-s").node_id == before.node_id
    assert member(site, "hospital-s").status == "online"
    assert member(site, "hospital-l").status == "revoked"
    assert client.process.poll() is None
    refused = site.client(key=leaving.path)
    site.superlink.wait_for("Refused 127.0.0.1: its key is not enrolled, or was revoked")
    refused.wait()
    still_lets_members_in(site, tmp_path)


def _refused(site: Site, tmp_path: Path, pair: keys.NodeKey) -> "tuple[int, str]":
    """Run ``bouquet supernode`` until it gives up: its exit status and its last line."""
    done = bouquet(
        "supernode", "--superlink", f"localhost:{site.fleet_port}", "--health-port", "0",
        "--ca", str(site.certificates / "ca.crt"), "--key", str(pair.path),
        environment={"PARTITION_ID": "0", "FLWR_HOME": str(tmp_path / "flwr")},
    )  # fmt: skip
    last = done.stderr.splitlines()[-1]
    assert last.startswith(f"error: localhost:{site.fleet_port}: the SuperLink refused this client"), last
    return done.returncode, last


def test_a_refused_client_ends_with_a_status_of_its_own(site: Site, tmp_path: Path) -> None:
    """Flower's SuperNode ends with 0, as one that was stopped does."""
    status, last = _refused(site, tmp_path, key(tmp_path, "stranger"))
    assert status == REFUSED
    assert "is not enrolled" in last
