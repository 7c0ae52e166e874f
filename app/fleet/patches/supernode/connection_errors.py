"""Why a client and a SuperLink did not come together: one line that names what to do.

Flower and gRPC report these cases as exit codes, as handshake alerts, or not at all. The SuperLink's end is
``superlink/handshakes.py``. Texts seen with flwr 1.39.0 and grpcio 1.85.
"""

import logging
import re
from logging import ERROR, WARNING
from typing import Any

from app.fleet.patches.registry import Flower, Patch
from app.fleet.quiet import Quiet

# Exit statuses of a client that is not let in, as EX_NOPERM and EX_TEMPFAIL of sysexits.h.
REFUSED, TRY_AGAIN = 77, 75

_MAKE = "flwr.supernode.start_client_internal:_make_fleet_connection_retry_invoker"

_CLOCK = "set this host's clock (NTP): it may run at most 5 s ahead of the SuperLink's and 300 s behind"

# The first match counts. A pattern is for the text of gRPC or Flower 1.39, its sentence for the client's operator.
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
    (r"Cancelling all calls", "the SuperLink ends its connections: it is being stopped"),
    (
        r"Socket closed|Connection reset|tcp handshaker shutdown|GOAWAY",
        "the SuperLink closed the connection: it wants TLS and a certificate (BOUQUET_CA and BOUQUET_NODE_KEY, "
        "no --insecure)",
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
    refusal = re.search(r"Refused: ([^\n\"]+)", text)  # what admission.py says
    said = refusal.group(1) if refusal else text
    for pattern, sentence in _CLIENT_END:
        if re.search(pattern, said):
            return sentence
    return one_line(f"the SuperLink refused this client: {said}" if refusal else said)


def apply(flower: Flower, context: Any) -> None:
    """Let a SuperNode say why it is not let in.

    ``context.latest_error`` keeps the latest reason, and ``context.exit_status`` what it ends with if it gives up.
    ``context.refused()`` says why the TLS handshake is refused, or nothing.
    A final refusal is logged as an error, a failure that is tried again as a warning, and each sentence at most once a
    minute.
    """
    original, quiet = flower[_MAKE], Quiet()

    def make(*args: Any, **kwargs: Any) -> Any:
        import grpc

        invoker = original(*args, **kwargs)
        give_up = invoker.should_giveup
        for_good = (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.FAILED_PRECONDITION)

        def explained(error: Exception) -> bool:
            code = error.code() if isinstance(error, grpc.RpcError) else None
            if code is grpc.StatusCode.UNAVAILABLE and (refusal := context.refused()):
                # gRPC knows only that the connection was closed, and would try for ever.
                context.latest_error, context.exit_status = refusal, REFUSED
                logging.getLogger("flwr").error(refusal)
                return True
            if code in (*for_good, grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED):
                sentence = f"{context.superlink}: {explain(error)}"
                context.latest_error = sentence
                context.exit_status = exit_status(sentence) if code in for_good else 0
                if quiet.is_new(sentence):
                    level = ERROR if context.exit_status == REFUSED else WARNING
                    logging.getLogger("flwr").log(level, sentence)
            return bool(give_up(error))

        invoker.should_giveup = explained
        return invoker

    flower.replace(_MAKE, make)


def exit_status(refusal: str) -> int:
    """What a client that is refused so ends with: a client that died counts as online for a while."""
    return TRY_AGAIN if "online already" in refusal else REFUSED


def one_line(text: str) -> str:
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())[:300]


PATCH = Patch(
    name="connection-errors",
    process="supernode",
    purpose="a client says in one line why the SuperLink did not let it in, and what to do",
    without="Flower's exit codes and gRPC's own words are all there is to see",
    needs={_MAKE: "2723add5e3c6"},
    after=("reconnect",),
    apply=apply,
)
