"""A SuperLink with TLS and node authentication, and SuperNodes that try to get in."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from certified import certified_channel
from federation_processes import until

from app.fleet.control import Connection
from app.fleet.deployment import REQUIRED
from app.fleet.host.ports import free_port

ROOT = Path(__file__).resolve().parents[2]

# `bouquet superlink` and `bouquet supernode` without data, partition id and warm workers: only the door.
SUPERLINK = """
import resource
import sys
from functools import partial
from pathlib import Path
from app.fleet.patches.superlink import handshakes
from app.fleet.identity import keys
from app.fleet import superlink
from app.fleet.deployment import SuperLinkSettings
# All clients of a test are on loopback, whose health checks are passed over otherwise.
handshakes.make_handshakes_readable = partial(handshakes.make_handshakes_readable, loopback=True)
keys.check_server_identity = lambda _: None  # some tests want a server with a bad certificate
address, port, certificates, state, health, wanted, files = sys.argv[1:]
if files:  # how many files it may open: the soft limit, and the hard one if it is given
    soft, _, hard = files.partition(":")
    hard = hard or resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (int(soft), int(hard)))
superlink.run(
    SuperLinkSettings(
        fleet_address=address, control_port=int(port), certificates=Path(certificates), state=Path(state),
        health_port=int(health), client_certificates=wanted,
    )
)
"""
STOCK = "from flwr.supernode.cli import flower_supernode; flower_supernode()"
SUPERNODE = """
import sys
from pathlib import Path
from app.fleet.patches.registry import select
from app.fleet.patches.supernode import client_certificate, connection_errors, reconnect
from app.fleet.supernode import SuperNodeContext
given = dict(zip(sys.argv[1::2], sys.argv[2::2]))
files = [Path(given[name]) if name in given else None for name in ("--root-certificates", "--auth-supernode-private-key")]
context = SuperNodeContext(given["--superlink"], *files)
select([client_certificate.PATCH, reconnect.PATCH, connection_errors.PATCH], context).install()
from flwr.supernode.cli import flower_supernode
flower_supernode()
"""


class Process:
    """One process of the federation with what it wrote."""

    def __init__(self, script: str, arguments: list[str], log: Path) -> None:
        self.log = log
        environment = os.environ | {
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]),
            "PYTHONPATH": str(ROOT),
            "FLWR_TELEMETRY_ENABLED": "0",
            "FLWR_DISABLE_UPDATE_CHECK": "1",
            "FLWR_HOME": str(log.parent / "flwr"),
            "OMP_NUM_THREADS": "1",
        }
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-c", script, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,
            )

    def text(self) -> str:
        """What it has written, without colours."""
        return re.sub(r"\x1b\[[0-9;]*m", "", self.log.read_text(errors="replace"))

    def wait_for(self, text: str, timeout_s: float = 60.0) -> str:
        """Wait until it has written `text`; return all that it has written."""
        until(lambda: text in self.text(), timeout_s, lambda: f"{text!r} is not in:\n{self.text()}")
        return self.text()

    def wait(self, timeout_s: float = 60.0) -> int:
        """Wait until it has ended; return its exit status."""
        return self.process.wait(timeout_s)

    def stop(self) -> None:
        """End it and everything it started."""
        for name in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(self.process.pid, name)
            except ProcessLookupError:
                break
            if name == signal.SIGTERM:
                try:
                    self.process.wait(5)
                except subprocess.TimeoutExpired:
                    continue
        self.process.wait(60)


class Site:
    """A server with its certificates, and the clients that were started for one test."""

    def __init__(
        self, folder: Path, certificates: Path, *, client_certificates: str = REQUIRED, files: str = ""
    ) -> None:
        self.folder, self.certificates = folder, certificates
        self.client_certificates, self.files = client_certificates, files
        folder.mkdir(exist_ok=True)
        self.fleet_port, self.control_port, self.health_port = free_port(), free_port(), free_port()
        self.clients: list[Process] = []
        self.superlink = self._start()
        self.connection = Connection(f"127.0.0.1:{self.control_port}", certificates / "ca.crt")

    def _start(self) -> Process:
        return Process(
            SUPERLINK,
            [
                f"127.0.0.1:{self.fleet_port}",
                str(self.control_port),
                str(self.certificates),
                str(self.folder),
                str(self.health_port),
                self.client_certificates,
                self.files,
            ],
            self.folder / "superlink.log",
        )

    def restart(self) -> "Site":
        """Kill the SuperLink as a power cut would, and start it again."""
        self.superlink.process.kill()
        self.superlink.wait()
        self.superlink.log.unlink()
        self.superlink = self._start()
        return self.ready()

    def ready(self) -> "Site":
        """Wait until both APIs listen."""
        self.superlink.wait_for("Uvicorn running")
        self.superlink.wait_for("Fleet API (gRPC-rere)")
        return self

    def client(
        self,
        *,
        key: Path | None = None,
        ca: Path | None = None,
        insecure: bool = False,
        host: str = "localhost",
        script: str = SUPERNODE,
    ) -> Process:
        """Start a SuperNode."""
        arguments = ["--superlink", f"{host}:{self.fleet_port}", "--port", str(free_port())]
        if insecure:
            arguments += ["--insecure"]
        else:
            arguments += ["--root-certificates", str(ca or self.certificates / "ca.crt")]
        if key is not None:
            arguments += ["--auth-supernode-private-key", str(key)]
        process = Process(script, arguments, self.folder / f"client-{len(self.clients)}.log")
        self.clients.append(process)
        return process

    def channel(self, key: Path | None) -> Any:
        """A gRPC channel to the Fleet API that shows a certificate over ``key``, or none."""
        return certified_channel(self.fleet_port, self.certificates / "ca.crt", key)

    def forget_clients(self) -> None:
        """End the clients of a test."""
        for client in self.clients:
            client.stop()

    def stop(self) -> None:
        """End everything."""
        self.forget_clients()
        self.superlink.stop()
