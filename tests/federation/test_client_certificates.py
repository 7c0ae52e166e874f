"""A client renews its certificate by itself, and knows when the TLS handshake is refused for good."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from federation_processes import until
from front_door import Door
from identity_site import SUPERNODE, Process

from app.fleet.patches.superlink.members import NODES
from app.fleet.patches.supernode.connection_errors import REFUSED

pytestmark = pytest.mark.federation

LIFETIME_S = 8
BOUQUET = "import runpy; runpy.run_module('app.cli', run_name='__main__')"
SHORT_LIVED = f"""
from datetime import timedelta
from app.fleet.identity import client_certificates
client_certificates.LIFETIME = timedelta(seconds={LIFETIME_S})
{SUPERNODE}"""


@pytest.fixture
def door(tmp_path: Path) -> Iterator[Door]:
    with Door.open(tmp_path) as door:
        yield door


def test_a_certificate_is_renewed_before_it_expires(door: Door) -> None:
    member, site = door.member(), door.site
    client = site.client(key=member.pair.path, script=SHORT_LIVED)
    client.wait_for("SuperNode ID:")
    time.sleep(LIFETIME_S + 1)  # the certificate with which it came has expired
    site.restart()
    until(lambda: bool(door.connected()), 60, client.text)
    time.sleep(2)
    assert door.connected(), "what was connected a moment ago only looked whether it is let in"
    assert client.process.poll() is None, client.text()


def test_a_client_that_is_no_member_any_more_ends_with_the_status_of_a_refusal(door: Door) -> None:
    """The SuperLink has lost its list, and the client dials again: it is refused in the handshake."""
    member, site = door.member(), door.site
    arguments = [
        "supernode", "--superlink", f"localhost:{site.fleet_port}", "--health-port", "0", "--partition-id", "0",
        "--ca", str(site.certificates / "ca.crt"), "--key", str(member.pair.path),
    ]  # fmt: skip
    client = Process(BOUQUET, arguments, site.folder / "client.log")
    site.clients.append(client)
    client.wait_for("SuperNode ID:")
    site.superlink.process.kill()
    site.superlink.wait()
    (site.folder / NODES).unlink()
    site.restart()
    assert client.wait(90) == REFUSED, client.text()
    [last] = client.text().splitlines()[-1:]
    assert last.startswith(f"error: localhost:{site.fleet_port}: the SuperLink refused this client")
    assert f"its key {member.pair.fingerprint} is not enrolled, or was revoked" in last
