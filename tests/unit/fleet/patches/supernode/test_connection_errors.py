"""Why a client was not let in, in a sentence."""

import pytest

from app.fleet.patches.supernode.connection_errors import explain

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
    "clock wrong": "Refused: Invalid timestamp",
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
