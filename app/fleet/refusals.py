"""Why a client and a SuperLink did not come together, said in one line that names what to do.

Flower and gRPC report these cases as exit codes, handshake alerts or nothing at all. `explain` is for the
client's end; `Handshakes` reads what gRPC writes on the server's standard error.
Texts seen with flwr 1.39.0 and grpcio 1.85.
"""

import logging
import re
import time
from collections.abc import Callable
from logging import ERROR, WARNING
from types import ModuleType
from typing import Any

_QUIET_S = 60.0

_CLOCK = "set this host's clock (NTP): it may run at most 5 s ahead of the SuperLink's and 300 s behind"

# First match wins. Patterns stand in what gRPC or Flower 1.39 say; sentences are for the client's operator.
_CLIENT_END: tuple[tuple[str, str], ...] = (
    (
        r"unable to get (local )?issuer|self.signed certificate|certificate signature failure",
        "the SuperLink's certificate is not signed by this client's CA: "
        "BOUQUET_CA must be the ca.crt that the server's operator gave out",
    ),
    (
        r"certificate has expired",
        "the SuperLink's certificate has expired: its operator must run `bouquet pki renew` and restart it",
    ),
    (
        r"certificate is not yet valid",
        "the SuperLink's certificate is not valid yet: set this host's clock",
    ),
    (
        r"Hostname Verification Check failed|No match found for server name",
        "the SuperLink's certificate does not name the host in SUPERLINK: dial a name that it has, "
        "or its operator runs `bouquet pki server --name HOST`",
    ),
    (
        r"WRONG_VERSION_NUMBER|missing selected ALPN",
        "what answers at SUPERLINK does not speak gRPC with TLS: SUPERLINK must be the Fleet API, host:9092",
    ),
    (
        r"Domain name not found|DNS resolution failed|address lookup failed|[Nn]ame or service not known",
        "SUPERLINK names a host that cannot be found: check its spelling and this host's name service",
    ),
    (r"Connection refused", "nothing listens at SUPERLINK: is the SuperLink up, and is the port 9092?"),
    (
        r"[Tt]imed out|Deadline Exceeded|No route to host|Network is unreachable",
        "SUPERLINK does not answer: check the network, and that the server's firewall lets 9092 in",
    ),
    (
        r"Socket closed|Connection reset|tcp handshaker shutdown|GOAWAY",
        "the SuperLink closed the connection: it wants TLS (BOUQUET_CA and BOUQUET_NODE_KEY, no --insecure)",
    ),
    (
        r"code\W+2001|must be registered via the CLI",
        "this client brought no key of its own: make one with `bouquet node-key`, have it enrolled, "
        "and give its file as BOUQUET_NODE_KEY",
    ),
    (
        r"code\W+2004|Failed to activate SuperNode",
        "the SuperLink does not let this key in: it is not enrolled, was revoked, "
        "or another client with the same key is online",
    ),
    (r"Invalid node ID", "this client's key was revoked, or the SuperLink has lost its members"),
    (r"Invalid timestamp", f"the SuperLink finds this client's clock wrong: {_CLOCK}"),
    (
        r"Invalid signature|Missing authentication metadata",
        "the SuperLink could not verify this client's key: make a new one with `bouquet node-key`",
    ),
    (
        r"RESOURCE_EXHAUSTED|larger than max",
        "a message was larger than the SuperLink takes: see the size limit in deploy/hosts/README.md",
    ),
)


def explain(error: BaseException | str) -> str:
    """Return one line on why the SuperLink was not reached or did not accept this client.

    Args:
        error: what Flower raised or printed: an RpcError, any other exception, or text.
    """
    details = getattr(error, "details", None)
    text = str((details() if callable(details) else details) or error)
    if refusal := re.search(r"Refused: ([^\n\"]+)", text):  # what admission.py says
        return _one_line(f"the SuperLink refused this client: {refusal.group(1)}")
    for pattern, sentence in _CLIENT_END:
        if re.search(pattern, text):
            return sentence
    return _one_line(text)


def install(internal: ModuleType, superlink: str) -> Callable[[], str]:
    """Let a SuperNode say why it is not let in. `internal` is Flower's `start_client_internal` module.

    A refusal for good is an error, what is tried again a warning; the same sentence at most once a minute.

    Returns what tells the latest of these sentences, for the end: Flower's own last words name no reason.
    """
    original = internal._make_fleet_connection_retry_invoker
    said: dict[str, float] = {}
    latest = [""]

    def make(*args: Any, **kwargs: Any) -> Any:
        import grpc

        invoker = original(*args, **kwargs)
        give_up = invoker.should_giveup
        for_good = (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.FAILED_PRECONDITION)

        def explained(error: Exception) -> bool:
            code = error.code() if isinstance(error, grpc.RpcError) else None
            if code in (*for_good, grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED):
                latest[0] = sentence = f"{superlink}: {explain(error)}"
                now = time.monotonic()
                if now - said.get(sentence, -_QUIET_S) >= _QUIET_S:
                    said[sentence] = now
                    logging.getLogger("flwr").log(ERROR if code in for_good else WARNING, sentence)
            return bool(give_up(error))

        invoker.should_giveup = explained
        return invoker

    internal._make_fleet_connection_retry_invoker = make  # type: ignore[attr-defined]
    return lambda: latest[0]


class Handshakes:
    """Translates the lines that gRPC writes on standard error about TLS handshakes.

    gRPC says who and why only in its `handshaker` trace, in some ten lines per connection. `line` keeps one:
    a readable one where the handshake failed, none where it went well; other lines pass unchanged. The
    same sentence about the same host is said once a minute, so that a port scan cannot fill a disk. Loopback
    is where health checks knock without a word, so that is not worth a line unless `loopback` asks for it.
    """

    _TRACE = re.compile(
        r"^[IWE]\d{4} .*?(handshaker\.cc|channel_trace\.h|ssl_transport_security\.cc|trace\.cc|log\.cc):\d+\]"
        r"|^=== Source Location Trace|^src/core/.*\.(cc|h):\d+$|^ shutdown=(true|false) index="
    )
    _PEER = re.compile(r"endpoint_peer_address=(?:ipv[46]:)?([^,}]+):\d+")

    def __init__(
        self, clock: Callable[[], float], *, loopback: bool = False, quiet_s: float = _QUIET_S
    ) -> None:
        self._clock, self._loopback, self._quiet_s = clock, loopback, quiet_s
        self._peer = "a client"
        self._said: dict[str, float] = {}
        self._after_trace = False

    def line(self, text: str) -> str | None:
        """Return what to print for one line of standard error; None for nothing."""
        if not self._TRACE.search(text):
            if self._after_trace and not text.strip():
                return None  # gRPC ends a trace with an empty line
            self._after_trace = False
            return text
        self._after_trace = True
        if peer := self._PEER.search(text):
            self._peer = peer.group(1).replace("%5B", "[").replace("%5D", "]")
        if name := re.search(r"No match found for server name: (\S+)", text):
            host = _one_line(name.group(1))[:80]
            return self._once(
                f"A client dials this server as {host}, which its certificate does not name: "
                f"run `bouquet pki server` with all names and --name {host}, and restart the SuperLink"
            )
        if "Failed with error" not in text:
            return None
        if re.search(
            r"WRONG_VERSION_NUMBER|HTTP_REQUEST|UNSUPPORTED_PROTOCOL|NO_SHARED_CIPHER|SSL_ERROR_SSL", text
        ):
            return self._once(
                f"Refused {self._peer}: it did not speak TLS as this server does (a plaintext client, --insecure?)"
            )
        if not self._loopback and re.match(r"127\.|\[?::1", self._peer):
            return None
        return self._once(
            f"{self._peer} left before TLS was agreed: it did not accept this server's certificate "
            "(another CA, another name, or expired), or it only looked whether the port is open"
        )

    def _once(self, sentence: str) -> str | None:
        now = self._clock()
        if len(self._said) > 1000:
            self._said.clear()
        if now - self._said.get(sentence, -self._quiet_s) < self._quiet_s:
            return None
        self._said[sentence] = now
        return f"WARNING:   {sentence}\n"


def _one_line(text: str) -> str:
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())[:300]
