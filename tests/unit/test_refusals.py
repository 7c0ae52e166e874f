"""What gRPC and Flower say about a failed connection becomes one line that names what to do."""

import pytest

from app.fleet.refusals import Handshakes, explain

# Captured from flwr 1.39.0 with grpcio 1.85.
UNAVAILABLE = "failed to connect to all addresses; last error: "
SEEN = {
    "BOUQUET_CA must be the ca.crt": UNAVAILABLE + "UNKNOWN: ipv4:127.0.0.1:19192: Tls handshake failed "
    "(TSI_PROTOCOL_FAILURE): SSL_ERROR_SSL: error:1000007d:SSL routines:OPENSSL_internal:"
    "CERTIFICATE_VERIFY_FAILED: unable to get local issuer certificate: OK",
    "has expired: its operator must run `bouquet pki renew`": UNAVAILABLE
    + "UNKNOWN: ipv4:127.0.0.1:19392: Tls "
    "handshake failed (TSI_PROTOCOL_FAILURE): SSL_ERROR_SSL: error:1000007d:SSL routines:OPENSSL_internal:"
    "CERTIFICATE_VERIFY_FAILED: certificate has expired: OK",
    "does not name the host in SUPERLINK": UNAVAILABLE + "UNKNOWN: ipv4:127.0.0.1:19292: Custom verification "
    "check failed with error: UNAUTHENTICATED: Hostname Verification Check failed.",
    "it wants TLS": UNAVAILABLE + "UNAVAILABLE: ipv4:127.0.0.1:19192: Socket closed",
    "nothing listens at SUPERLINK": UNAVAILABLE
    + "UNKNOWN: ipv4:127.0.0.1:19999: Failed to connect to remote host: Connection refused",
    "names a host that cannot be found": "errors resolving nowhere.invalid:19999: [field:hostname lookup "
    "error:address lookup failed for nowhere.invalid:19999: Domain name not found]",
    "must be the Fleet API, host:9092": UNAVAILABLE
    + "UNKNOWN: ipv4:127.0.0.1:19193: Cannot check peer: missing selected ALPN property.",
    "not enrolled, was revoked, or another client": '{"code": 2004, "public_message": '
    '"Failed to activate SuperNode.", "public_details": null}',
    "brought no key of its own": '{"code": 2001, "public_message": "SuperNode authentication is enabled. '
    'All SuperNodes must be registered via the CLI.", "public_details": null}',
    "clock wrong": "Invalid timestamp",
    "refused this client: the key of hospital-a was revoked": "Refused: the key of hospital-a was revoked",
}


@pytest.mark.parametrize("sentence", SEEN)
def test_each_reason_has_a_sentence(sentence: str) -> None:
    line = explain(SEEN[sentence])
    assert sentence in line
    assert "\n" not in line
    assert "OPENSSL" not in line


def test_an_exception_is_read_through_its_details() -> None:
    class Failed(Exception):
        def details(self) -> str:
            return "Invalid node ID"

    assert "key was revoked" in explain(Failed("<_InactiveRpcError of RPC ...>"))


def test_what_is_not_known_is_shown_short_and_on_one_line() -> None:
    line = explain(RuntimeError("first\nsecond \x1b[31m" + "x" * 1000))
    assert line.startswith("first second")
    assert len(line) <= 300
    assert "\x1b" not in line


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


def test_a_good_handshake_is_silent_and_other_lines_pass() -> None:
    good = "\n".join(TRACE.splitlines()[:2]) + "\n"
    mine = "INFO :      Starting Flower SuperLink\n\nTraceback (most recent call last):\n"
    assert told(Handshakes(lambda: 0.0), good + mine + good) == mine.splitlines(keepends=True)


def test_a_name_that_the_certificate_lacks_is_told() -> None:
    text = "E1121 20:05:25.141057 7570 ssl_transport_security.cc:3238] No match found for server name: fl.site.org\n"
    [line] = told(Handshakes(lambda: 0.0), text)
    assert "dials this server as fl.site.org, which its certificate does not name" in line
    assert "--name fl.site.org" in line


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
