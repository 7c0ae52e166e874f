"""gRPC's lines about handshakes, as a person reads them."""

import pytest

from app.fleet.patches.superlink.handshakes import MOST_ALIKE, MOST_CHARACTERS, Handshakes

TRACE = """\
I1121 20:06:31.743636   10213 handshaker.cc:80] handshake_manager 0x7f: adding handshaker security [0x7] at index 1
I1121 20:06:31.743770   10213 handshaker.cc:155] CallNextHandshakerLocked: error=OK shutdown=false index=1, \
args={endpoint=0x7f, args={grpc.internal.endpoint_peer_address=ipv4:198.51.100.7:39262, x=y}}
I1121 20:06:31.744059   10212 ssl_transport_security.cc:2563] Handshake failed with error SSL_ERROR_SSL: FIRST
I1121 20:06:31.744065   10212 handshaker.cc:155] CallNextHandshakerLocked: error=FIRST
=== Source Location Trace: ===\x20
src/core/util/status_helper.cc:68
 shutdown=false index=2, args={grpc.internal.endpoint_peer_address=ipv4:198.51.100.7:39262, x=y}
I1121 20:06:31.744105   10212 channel_trace.h:396] handshake manager 0x7f: Failed with error: SECOND
=== Source Location Trace: ===\x20
src/core/util/status_helper.cc:68

"""


PLAINTEXT = (
    "UNKNOWN: Ssl handshake failed (TSI_PROTOCOL_FAILURE): SSL_ERROR_SSL: "
    "error:100000f7:SSL routines:OPENSSL_internal:WRONG_VERSION_NUMBER"
)


# What a SuperNode of flwr 1.40 or later gets, as seen with 1.40.0: with TLS, and without.
HTTP = (
    "UNKNOWN: Cannot check peer: missing selected ALPN property.",
    PLAINTEXT.replace("WRONG_VERSION_NUMBER", "HTTP_REQUEST"),
)


LEFT = "UNAVAILABLE: Handshake read failed (Socket closed)"


def told(handshakes: Handshakes, text: str) -> list[str]:
    lines = (handshakes.line(line) for line in text.splitlines(keepends=True))
    return [line for line in lines if line is not None]


def failed(error: str) -> str:
    return TRACE.replace("SECOND", error)


def test_a_failed_handshake_is_one_line_with_the_host() -> None:
    [line] = told(Handshakes(lambda: 0.0), failed(PLAINTEXT))
    assert "Refused 198.51.100.7: it did not speak TLS" in line
    [line] = told(Handshakes(lambda: 0.0), failed(LEFT))
    assert "198.51.100.7 left before TLS was agreed" in line


def test_a_client_that_speaks_http_is_told_which_flower_does() -> None:
    for error in HTTP:
        [line] = told(Handshakes(lambda: 0.0), failed(error))
        assert "Refused 198.51.100.7: it speaks HTTP, not gRPC. SuperNodes of flwr 1.40 and later do" in line


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        ("PEER_DID_NOT_RETURN_A_CERTIFICATE: Invalid certificate verification context", "showed no client certificate"),
        ("CERTIFICATE_VERIFY_FAILED: unable to get local issuer certificate", "is not enrolled, or was revoked"),
        ("CERTIFICATE_VERIFY_FAILED: certificate has expired", "its client certificate is not valid now"),
    ],
)  # fmt: skip
def test_a_client_whose_certificate_is_not_accepted_is_told_apart(error: str, reason: str) -> None:
    start = (
        "UNKNOWN: Ssl handshake failed (TSI_PROTOCOL_FAILURE): SSL_ERROR_SSL: error:1000007d:SSL routines:"
    )
    [line] = told(Handshakes(lambda: 0.0), failed(f"{start}OPENSSL_internal:{error}: OK"))
    assert "Refused 198.51.100.7: " in line and reason in line


def test_a_good_handshake_is_silent_and_other_lines_pass() -> None:
    good = "\n".join(TRACE.splitlines()[:2]) + "\n"
    mine = "INFO :      Starting Flower SuperLink\n\nTraceback (most recent call last):\n"
    assert told(Handshakes(lambda: 0.0), good + mine + good) == mine.splitlines(keepends=True)


def test_a_name_that_the_certificate_lacks_is_told() -> None:
    text = "E1121 20:05:25.141057 7570 ssl_transport_security.cc:3238] No match found for server name: fl.site.org\n"
    [line] = told(Handshakes(lambda: 0.0), text)
    assert "dials this server as fl.site.org, which its certificate does not name" in line
    assert "`bouquet pki server` with all of them" in line


@pytest.mark.parametrize("name", ["x;curl", "`id`", "$(id)", "\x1b[2J", "a" * 300, "-oProxyCommand=x"])
def test_a_name_that_is_no_host_name_is_not_shown(name: str) -> None:
    text = (
        f"E1121 20:05:25.141057 7570 ssl_transport_security.cc:3238] No match found for server name: {name}\n"
    )
    [line] = told(Handshakes(lambda: 0.0), text)
    assert name not in line and "no host name" in line


def test_other_lines_of_grpc_are_short_and_few() -> None:
    text = "E1121 20:05:25.141057 7570 parsing.cc:88] \x1b[2J" + "a" * 5000 + "\n"
    lines = told(Handshakes(lambda: 0.0), text * 50)
    assert len(lines) == MOST_ALIKE
    assert all(len(line) < 2 * MOST_CHARACTERS and line[:-1].isprintable() for line in lines)


def test_a_scan_of_the_port_does_not_fill_the_log() -> None:
    now = [0.0]
    handshakes = Handshakes(lambda: now[0])
    assert len(told(handshakes, failed(LEFT) * 50)) == 1
    now[0] = 61.0
    assert len(told(handshakes, failed(LEFT))) == 1


def test_health_checks_on_loopback_are_silent() -> None:
    text = failed(LEFT).replace("198.51.100.7", "127.0.0.1")
    assert told(Handshakes(lambda: 0.0), text) == []
    assert len(told(Handshakes(lambda: 0.0, loopback=True), text)) == 1
    assert len(told(Handshakes(lambda: 0.0), failed(PLAINTEXT).replace("198.51.100.7", "127.0.0.1"))) == 1
