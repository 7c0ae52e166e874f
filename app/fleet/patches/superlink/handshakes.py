"""gRPC's lines about TLS handshakes, translated: who failed to connect, and why.

Nothing of Flower is replaced here. gRPC tells this only in its `handshaker` trace on standard error. Lines seen with
grpcio 1.85.
"""

import atexit
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from logging import WARNING, getLogger
from pathlib import Path

from app.environment import with_variables
from app.fleet.flower import python_path
from app.fleet.logs import printable
from app.fleet.quiet import QUIET_S, Budget, Quiet

# Why this server did not accept what a client showed; the first match counts.
_NOT_ACCEPTED = (
    (
        r"PEER_DID_NOT_RETURN_A_CERTIFICATE",
        "it showed no client certificate. A stock flower-supernode of flwr 1.39 needs CLIENT_CERTIFICATES=optional "
        "here; one of 1.40 or later speaks HTTP and cannot join",
    ),
    (
        r"CERTIFICATE_VERIFY_FAILED: certificate (has expired|is not yet valid)",
        "its client certificate is not valid now: its clock is wrong, or it has not renewed it",
    ),
    (
        r"CERTIFICATE_VERIFY_FAILED",
        "its key is not enrolled, or was revoked (`bouquet enroll NAME KEY.pub`)",
    ),
)

# What gRPC must find in the environment when it is loaded.
TRACE = {"GRPC_VERBOSITY": "info", "GRPC_TRACE": "handshaker"}
LOOPBACK = "--loopback"
MOST_ALIKE, MOST_CHARACTERS = 10, 500  # of gRPC's other lines: each place in its code within a minute
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,100}[A-Za-z0-9])?")
_ROOT = Path(__file__).resolve().parents[4]


def make_handshakes_readable(*, loopback: bool = False) -> None:
    """Send what gRPC writes on standard error through a small process that translates its handshake lines.

    It is a process and not a thread, because the last words of a dying SuperLink must come out. It is started again
    when it ends. Python's own lines do not pass through it. Call this before gRPC is imported, with ``TRACE`` set.
    `loopback`: report clients there too.
    """
    if "grpc" in sys.modules:
        raise RuntimeError("make_handshakes_readable comes too late: gRPC has read its settings")
    reader, writer = (
        os.pipe()
    )  # this process keeps the reading end: what is written meanwhile waits for the next one
    original = os.dup(2)
    sys.stderr = open(original, "w", buffering=1, errors="backslashreplace", closefd=False)  # noqa: SIM115
    os.dup2(writer, 2)
    os.close(writer)
    over = threading.Event()
    child = [_start(reader, original, loopback)]

    def watch() -> None:
        while True:
            status = child[0].wait()
            if over.wait(0.1):
                return
            getLogger("flwr").log(
                WARNING, "The process that translates gRPC's lines ended (%s); it is started again", status
            )
            try:
                child[0] = _start(reader, original, loopback)
            except OSError as error:  # no memory, no process: gRPC's lines come as they are
                os.dup2(original, 2)
                getLogger("flwr").log(WARNING, "It cannot be started: %s", error.strerror)
                return

    threading.Thread(target=watch, daemon=True).start()

    def drain() -> None:
        over.set()
        os.dup2(original, 2)  # closes our end; others (flower-superexec) may still hold theirs
        deadline = time.monotonic() + 1.0
        while child[0].poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)

    atexit.register(drain)


def _start(reader: int, output: int, loopback: bool) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [sys.executable, "-m", __name__, *([LOOPBACK] if loopback else [])],
        stdin=reader,
        stderr=output,
        env=with_variables({"PYTHONPATH": python_path(_ROOT)}),
        # The terminal's Ctrl-C goes to the SuperLink; this ends with its last line.
        start_new_session=True,
    )


def main() -> None:
    """Translate standard input to standard error."""
    for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):  # a service manager's stop
        signal.signal(name, signal.SIG_IGN)
    handshakes = Handshakes(time.monotonic, loopback=LOOPBACK in sys.argv)
    for raw in sys.stdin.buffer:
        if (line := handshakes.line(raw.decode(errors="replace"))) is not None:
            os.write(2, line.encode())


class Handshakes:
    """Translates the lines that gRPC writes on standard error about TLS handshakes.

    gRPC tells who and why only in its `handshaker` trace, in some ten lines per connection. `line` turns them into one
    readable line where the handshake failed, and into none where it succeeded. Other lines of gRPC are shortened and
    limited, and all else passes unchanged. The same
    sentence about the same host appears once a minute, so a port scan cannot fill a disk. Health checks on loopback
    connect and leave, so they get no line unless `loopback` asks for it.
    """

    _TRACE = re.compile(
        r"^[IWE]\d{4} .*?(handshaker\.cc|channel_trace\.h|ssl_transport_security\.cc|trace\.cc|log\.cc):\d+\]"
        r"|^=== Source Location Trace|^src/core/.*\.(cc|h):\d+$|^ shutdown=(true|false) index="
    )
    _GRPC = re.compile(r"^[DIWEF]\d{4} \S+\s+\d+ (\S+:\d+)\]")
    _PEER = re.compile(r"endpoint_peer_address=(?:ipv[46]:)?([^,}]+):\d+")

    def __init__(
        self, clock: Callable[[], float], *, loopback: bool = False, quiet_s: float = QUIET_S
    ) -> None:
        self._loopback, self._quiet = loopback, Quiet(clock, quiet_s)
        self._alike = Budget(MOST_ALIKE, clock, quiet_s)
        self._peer = "a client"
        self._after_trace = False

    def line(self, text: str) -> str | None:
        """Return what to print for one line of standard error; None for nothing."""
        if not self._TRACE.search(text):
            if self._after_trace and not text.strip():
                return None  # gRPC ends a trace with an empty line
            self._after_trace = False
            if place := self._GRPC.match(text):
                line = printable(text.rstrip("\n"), MOST_CHARACTERS)
                return f"{line}\n" if self._alike.take(place.group(1)) else None
            return text
        self._after_trace = True
        if peer := self._PEER.search(text):
            self._peer = printable(peer.group(1).replace("%5B", "[").replace("%5D", "]"), 100)
        if name := re.search(r"No match found for server name: (\S+)", text):
            # The name is the client's word: it is shown, and never part of a command line to copy.
            host = name.group(1) if _HOST.fullmatch(name.group(1)) else "something that is no host name"
            return self._once(
                f"A client dials this server as {host}, which its certificate does not name: where that is one of its "
                "names, run `bouquet pki server` with all of them, and restart the SuperLink"
            )
        if "Failed with error" not in text:
            return None
        for pattern, reason in _NOT_ACCEPTED:
            if re.search(pattern, text):
                return self._once(f"Refused {self._peer}: {reason}")
        # gRPC wants h2 in the handshake, which no client that speaks HTTP/1.1 offers.
        if re.search(r"missing selected ALPN|SSL routines:\w*:HTTP_REQUEST", text):
            return self._once(
                f"Refused {self._peer}: it speaks HTTP, not gRPC. SuperNodes of flwr 1.40 and later do and cannot join: "
                "run `bouquet supernode`, or flower-supernode of flwr 1.39"
            )
        if re.search(r"WRONG_VERSION_NUMBER|UNSUPPORTED_PROTOCOL|NO_SHARED_CIPHER|SSL_ERROR_SSL", text):
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
        return f"WARNING:   {sentence}\n" if self._quiet.is_new(sentence, self._peer) else None


if __name__ == "__main__":
    main()
