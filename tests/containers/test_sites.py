"""deploy/hosts as its README describes it: a server and three clients, Compose projects that share a network only."""

import csv
import io
import json
import re
import secrets
import shutil
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from compose_stack import LABEL, docker, eventually
from container_engine import ROOT, build_environment

from app.fleet.host.ports import free_port

pytestmark = pytest.mark.containers

HOSTS = ROOT / "deploy" / "hosts"
NAMES = ("hospital-a", "hospital-b", "hospital-c")
SERVER = "fl.example.test"

# Connects to every TCP port of a host, and prints those that answer.
SCAN = """
import socket, sys
for port in range(1, 65536):
    with socket.socket() as probe:
        probe.settimeout(2)
        if probe.connect_ex((sys.argv[1], port)) == 0:
            print(port)
"""
REACH = "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=5)"


class Site:
    """A host of its own: a folder with a Compose file and its .env, and a project of that name."""

    def __init__(self, folder: Path, kind: str, network: str, settings: dict[str, str]) -> None:
        self.folder, self.kind = folder, kind
        self.name = f"{network}-{folder.name}"
        folder.mkdir()
        shutil.copy(HOSTS / f"{kind}.compose.yaml", folder)
        shutil.copy(HOSTS / f"{kind}.env.example", folder / ".env")
        self.edit(settings)
        # All that the hosts of this test have in common.
        service = {"default": None, "sites": {"aliases": [SERVER]}}
        shared: dict[str, Any] = {"external": True, "name": network}
        override = (
            {"services": {"superlink": {"networks": service}}, "networks": {"sites": shared}}
            if kind == "server"
            else {"networks": {"default": shared}}
        )
        (folder / "network.yaml").write_text(json.dumps(override))  # JSON is YAML
        self._environment = build_environment("") | {"COMPOSE_PROJECT_NAME": self.name}
        del self._environment["IMAGE_TAG"]  # .env's
        self.printed = ""

    def edit(self, settings: dict[str, str]) -> None:
        """Edit .env; every name must stand in the example."""
        text = (self.folder / ".env").read_text()
        for name, value in settings.items():
            text, found = re.subn(rf"^{name}=.*$", f"{name}={value}", text, flags=re.MULTILINE)
            assert found == 1, f"{self.kind}.env.example has no {name}"
        (self.folder / ".env").write_text(text)

    def attempt(
        self, *arguments: str, timeout: float = 300, stdin: str = ""
    ) -> subprocess.CompletedProcess[str]:
        """`docker compose -f KIND.compose.yaml ARGUMENTS`, whatever its status."""
        done = subprocess.run(
            ["docker", "compose", "-f", f"{self.kind}.compose.yaml", "-f", "network.yaml", *arguments],
            cwd=self.folder, env=self._environment, capture_output=True, text=True, timeout=timeout,
            input=stdin,
        )  # fmt: skip
        self.printed += done.stdout + done.stderr
        return done

    def compose(self, *arguments: str, timeout: float = 300, stdin: str = "") -> str:
        """Standard output of a command that must succeed."""
        done = self.attempt(*arguments, timeout=timeout, stdin=stdin)
        assert done.returncode == 0, f"{self.name}: {arguments}\n{done.stdout}\n{done.stderr}\n{self.logs()}"
        return done.stdout

    def run(self, *arguments: str, timeout: float = 300) -> str:
        """What the README calls `run`."""
        return self.compose("run", "--rm", "--no-deps", "--no-TTY", *arguments, timeout=timeout)

    def logs(self) -> str:
        done = subprocess.run(
            ["docker", "compose", "-f", f"{self.kind}.compose.yaml", "logs", "--no-color", "--no-log-prefix"],
            cwd=self.folder, env=self._environment, capture_output=True, text=True, timeout=120,
        )  # fmt: skip
        return done.stdout + done.stderr

    def container(self, service: str) -> str:
        (found,) = docker(
            "ps", "--quiet", "--no-trunc", "--filter", f"label={LABEL}={self.name}",
            "--filter", f"label=com.docker.compose.service={service}",
        ).split()  # fmt: skip
        return found

    def volumes(self) -> dict[str, str]:
        """The project's volumes by their names in the Compose file."""
        listed = docker(
            "volume", "ls", "--filter", f"label={LABEL}={self.name}",
            "--format", '{{.Name}} {{.Label "com.docker.compose.volume"}}',
        ).splitlines()  # fmt: skip
        return {short: full for full, short in (line.split() for line in listed)}

    def mounted(self, service: str) -> set[str]:
        inspected = json.loads(docker("inspect", self.container(service)))[0]
        return {mount["Destination"] for mount in inspected["Mounts"]}

    def remove(self) -> None:
        self.attempt("--profile", "*", "down", "--volumes", "--remove-orphans", "--timeout", "2", timeout=120)


@dataclass
class Federation:
    """What the fixture set up."""

    server: Site
    clients: dict[str, Site]
    image: str
    port: int
    metrics_port: int
    outcome: dict[str, str] = field(default_factory=dict)  # results by file name

    def volume(self, volume: str, *command: str) -> str:
        """Run a command as root over a volume, which stands read-only under /volume."""
        return docker(
            "run", "--rm", "--network", "none", "--user", "0", "--volume", f"{volume}:/volume:ro",
            "--entrypoint", command[0], self.image, *command[1:],
        )  # fmt: skip


@pytest.fixture(scope="module")
def federation(images: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    """The README's steps 1 to 10, with three clients on digits."""
    folder, network = tmp_path_factory.mktemp("hosts"), f"bouquet-sites-{secrets.token_hex(4)}"
    docker("network", "create", "--internal", network)
    port, metrics_port = free_port(), free_port()
    server = Site(
        folder / "server",
        "server",
        network,
        {
            "SERVER_NAMES": SERVER, "NUM_CLIENTS": "3", "ROUNDS": "2", "CONFIG": "learning-rate=0.003",
            "FLEET_BIND": "127.0.0.1", "FLEET_PORT": str(port), "METRICS_PORT": str(metrics_port),
            "IMAGE_TAG": images,
        },
    )  # fmt: skip
    clients = {
        name: Site(
            folder / name,
            "client",
            network,
            {"SUPERLINK": f"{SERVER}:9092", "PARTITION_ID": str(number), "IMAGE_TAG": f"{images}-cpu"},
        )
        for number, name in enumerate(NAMES)
    }
    federation = Federation(server, clients, f"bouquet-superlink:{images}", port, metrics_port)
    try:
        set_up(federation)
        yield federation
    finally:
        for site in (*clients.values(), server):
            site.remove()
        docker("network", "rm", network)


def set_up(federation: Federation) -> None:
    server, clients = federation.server, federation.clients
    server.compose("up", "--detach", "--wait", "superlink")  # 2
    server.compose("cp", "superlink:/pki/server/ca.crt", ".")  # 3
    (server.folder / "clients").mkdir()
    for name, client in clients.items():
        shutil.copy(server.folder / "ca.crt", client.folder)  # 5
        made = client.run("node-key")  # 6
        (line,) = (line for line in made.splitlines() if line.startswith("ecdsa-sha2-nistp384"))
        (server.folder / "clients" / f"{name}.pub").write_text(line + "\n")  # 7
        assert "enrolled" in server.run("admin", "enroll", name, f"/clients/{name}.pub")
    pinned = server.run("admin", "app-hash", "/app").strip()
    assert re.fullmatch("[0-9a-f]{64}", pinned)
    clients["hospital-b"].edit({"BOUQUET_ALLOWED_APPS": pinned})
    with ThreadPoolExecutor() as pool:  # 8
        list(pool.map(lambda client: client.compose("up", "--detach"), clients.values()))
    for client in clients.values():
        eventually(lambda client=client: "SuperNode ID:" in client.logs(), within=180, what=client.name)  # type: ignore[misc]
    federation.outcome["members"] = server.run("admin", "members")  # 9
    federation.outcome["train"] = server.run("train", timeout=600)  # 10
    server.compose("cp", "superlink:/results/.", "results/")
    latest = server.folder / "results" / "latest"
    for file in ("summary.json", "history.csv"):
        federation.outcome[file] = (latest / file).read_text()


def test_three_sites_train_together(federation: Federation) -> None:
    """Two rounds, each with the three clients' own partitions; the pinned app runs; nothing failed."""
    for name in NAMES:
        assert re.search(rf"^{name} +online ", federation.outcome["members"], re.MULTILINE)
    summary = json.loads(federation.outcome["summary.json"])
    assert (summary["num_clients"], summary["rounds"], summary["dataset"]) == (3, 2, "digits")
    assert summary["mode"] == "hosts" and summary["failures"] == []
    assert summary["accuracy"] > 0.5, "ten classes: 0.1 is chance"
    rows = list(csv.DictReader(io.StringIO(federation.outcome["history.csv"])))
    for server_round in ("1", "2"):
        trained = [row for row in rows if (row["phase"], row["round"]) == ("train", server_round)]
        assert sorted(row["partition_id"] for row in trained) == ["0", "1", "2"]
        assert len({row["node_id"] for row in trained}) == 3
        assert all(float(row["num_examples"]) > 300 for row in trained)


def test_only_9092_answers(federation: Federation) -> None:
    """Every port of the server, dialled from a client and from outside. The Control API's is refused."""
    client = federation.clients["hospital-a"].container("supernode-cpu")
    dial = ["docker", "exec", client, "python", "-c"]
    refused = subprocess.run([*dial, REACH, SERVER, "8000"], capture_output=True, text=True, timeout=60)
    assert "ConnectionRefusedError" in refused.stderr
    assert docker("exec", client, "python", "-c", SCAN, SERVER, timeout=300).split() == ["9092"]

    superlink = json.loads(docker("inspect", federation.server.container("superlink")))[0]
    for name, network in superlink["NetworkSettings"]["Networks"].items():
        address = network["IPAddress"]
        own = (
            name == f"{federation.server.name}_default"
        )  # where no client is: metrics, for this host's loopback
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((address, 8000), timeout=5)
        found = subprocess.check_output([sys.executable, "-c", SCAN, address], text=True, timeout=300)
        assert found.split() == ["9092", "9097"] if own else ["9092"]
    published = [binding for binding in superlink["NetworkSettings"]["Ports"].values() if binding]
    ports = (federation.port, federation.metrics_port)
    assert sorted(published, key=str) == sorted(
        ([{"HostIp": "127.0.0.1", "HostPort": str(port)}] for port in ports), key=str
    )
    socket.create_connection(("127.0.0.1", federation.port), timeout=5).close()
    with urllib.request.urlopen(f"http://127.0.0.1:{federation.metrics_port}/metrics", timeout=20) as answer:
        assert 'bouquet_client_online{client="hospital-a"} 1.0' in answer.read().decode()


def test_a_client_opens_no_port_to_others(federation: Federation) -> None:
    """What it listens on, its health service, is not published and tells nothing but health."""
    for client in federation.clients.values():
        inspected = json.loads(docker("inspect", client.container("supernode-cpu")))[0]
        assert not any(inspected["NetworkSettings"]["Ports"].values())


def test_no_secret_leaves_its_place(federation: Federation) -> None:
    """The keys of the CA and the server: no client volume, no log. A client's key: its own volume only."""
    server, clients = federation.server, federation.clients
    volumes = server.volumes()
    places = {"the CA": (volumes["pki-ca"], "ca.key"), "the server": (volumes["pki-server"], "server.key")}
    places |= {name: (client.volumes()["key"], "node.key") for name, client in clients.items()}
    pems = {
        owner: federation.volume(volume, "cat", f"/volume/{file}").split("-----")[2].split()
        for owner, (volume, file) in places.items()
    }
    everyones = [line for lines in pems.values() for line in lines]
    pems = {  # without the head of the format, which all have
        owner: [line for line in lines if len(line) >= 40 and everyones.count(line) == 1]
        for owner, lines in pems.items()
    }
    everything = [full for site in (server, *clients.values()) for full in site.volumes().values()]
    assert len(everything) == 6 + 3 * 2
    logs = "".join(site.printed + site.logs() for site in (server, *clients.values()))
    for owner, lines in pems.items():
        assert lines
        words = [word for line in lines for word in ("-e", line)]
        holding = [
            volume
            for volume in everything
            if federation.volume(volume, "sh", "-c", 'grep -rlF "$@" /volume || true', "sh", *words).strip()
        ]
        assert holding == [places[owner][0]], f"the key of {owner}"
        assert not any(line in logs for line in lines), f"the key of {owner} was logged"
    assert "PRIVATE KEY" not in logs
    for name, client in clients.items():
        found = federation.volume(
            client.volumes()["data"], "sh", "-c", "grep -rl 'PRIVATE KEY' /volume || true"
        )
        assert found == "", f"a key among the data of {name}"
        # The last two are /dev/null where APP and BOUQUET_DATASET are empty.
        assert client.mounted("supernode-cpu") == {"/keys", "/data", "/ca.crt", "/foreign", "/dataset"}
    assert server.mounted("superlink") == {
        "/control", "/data", "/dataset", "/results", "/state", "/pki/server",
    }  # fmt: skip


def test_the_key_of_the_ca_may_be_kept_elsewhere(federation: Federation) -> None:
    """As the README says: away, set-up as at each start, back."""
    server = federation.server
    key = server.run("--entrypoint", "cat", "pki", "/pki/ca/ca.key")
    server.run("--entrypoint", "rm", "pki", "/pki/ca/ca.key")
    assert "ca.key is kept elsewhere" in server.run("pki")
    assert "put that file back" in server.attempt("run", "--rm", "--no-deps", "--no-TTY", "renew").stderr
    put_back = ("--entrypoint", "sh", "pki", "-c", "umask 077; cat >/pki/ca/ca.key")
    server.compose("run", "--rm", "--no-deps", "--no-TTY", *put_back, stdin=key)
    assert "valid until" in server.run("renew")


def test_a_revoked_site_is_cut_off(federation: Federation) -> None:
    """Last: it takes a client away. The others stay."""
    assert "hospital-c revoked" in federation.server.run("admin", "revoke", "hospital-c")
    eventually(
        lambda: "the key of hospital-c was revoked" in federation.clients["hospital-c"].logs(),
        within=60,
        what="hospital-c is told",
    )
    assert "the key of hospital-c was revoked" in federation.server.logs()
    listed = federation.server.run("admin", "members")
    assert re.search("^hospital-c +revoked ", listed, re.MULTILINE)
    assert re.search("^hospital-a +online ", listed, re.MULTILINE)
