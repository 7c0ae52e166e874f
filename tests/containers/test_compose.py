"""What compose.yaml promises, on one federation of ten CPU clients in real containers."""

import csv
import io
import json
import re
import socket
import subprocess
import tarfile
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import PurePosixPath

import pytest
from compose_stack import Stack, docker, eventually
from container_engine import ROOT
from terminal import Terminal

from app.fleet.host.ports import free_port
from app.fleet.runs.bundle import app_hash

pytestmark = pytest.mark.containers

PRIVATE_KEY = re.compile(rb"-----BEGIN [A-Z ]*PRIVATE KEY-----\s+[A-Za-z0-9+/=]{16}")


def test_training_ends_well(trained: Stack) -> None:
    """The command in the README trains ten clients for five rounds, and `train` exits with the run's result."""
    assert trained.wait("train", timeout=1) == 0, trained.logs("train")
    summary = json.loads(trained.latest("summary.json"))
    assert (summary["num_clients"], summary["rounds"], summary["dataset"]) == (10, 5, "digits")
    assert summary["accuracy"] >= 0.5
    assert summary["failures"] == []


def test_every_client_has_its_own_partition(trained: Stack) -> None:
    """Ten identical replicas, ten different ids, in every round."""
    rows = list(csv.DictReader(io.StringIO(trained.latest("history.csv"))))
    for server_round in range(1, 6):
        ids = [
            row["partition_id"]
            for row in rows
            if row["phase"] == "train" and row["round"] == str(server_round)
        ]
        assert sorted(ids, key=int) == [str(number) for number in range(10)]


def test_no_container_has_privileges(trained: Stack) -> None:
    """Not root, no capability, nothing to gain, nothing of the image to change; memory and processes limited."""
    running = trained.containers()
    assert len(running) == 12, "ten clients, the SuperLink and who hands out the keys"
    for container in running:
        status = trained.inside(container, "cat", "/proc/self/status").stdout
        assert re.search(r"^Uid:\s+10001\s+10001\s+10001\s+10001$", status, re.MULTILINE)
        for kind in ("Inh", "Prm", "Eff", "Bnd", "Amb"):
            assert re.search(rf"^Cap{kind}:\s+0+$", status, re.MULTILINE), f"Cap{kind} of {container}"
        assert re.search(r"^NoNewPrivs:\s+1$", status, re.MULTILINE)
        for path in ("/app/x", "/opt/bouquet/x", "/home/bouquet/x"):
            assert "Read-only file system" in trained.inside(container, "touch", path).stderr
    for container in trained.containers(all_states=True):
        limits = trained.inspect(container)["HostConfig"]
        assert limits["ReadonlyRootfs"] and limits["CapDrop"] == ["ALL"], container
        assert limits["Memory"] > 0 and limits["PidsLimit"] > 0, container


def test_only_the_fleet_api_is_published(trained: Stack) -> None:
    """Port 9092 of the SuperLink, and no other port of any container."""
    published = {
        (container, port, binding["HostPort"])
        for container in trained.containers()
        for port, bindings in trained.inspect(container)["NetworkSettings"]["Ports"].items()
        for binding in bindings or []
    }
    (superlink,) = trained.containers("superlink")
    assert published == {(superlink, "9092/tcp", str(trained.port))}
    socket.create_connection(("127.0.0.1", trained.port), timeout=5).close()


def test_the_control_api_is_out_of_reach(trained: Stack) -> None:
    """From a client, and from the host by the container's address, connections are refused; 9092 answers."""
    attempt = "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=5)"
    client = trained.containers("supernode-cpu")[0]
    assert trained.inside(client, "python", "-c", attempt, "superlink", "9092").returncode == 0
    assert "refused" in trained.inside(client, "python", "-c", attempt, "superlink", "8000").stderr

    (superlink,) = trained.containers("superlink")
    for network in trained.inspect(superlink)["NetworkSettings"]["Networks"].values():
        socket.create_connection((network["IPAddress"], 9092), timeout=5).close()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((network["IPAddress"], 8000), timeout=5)


def test_metrics_are_where_prometheus_is_and_not_where_clients_are(trained: Stack) -> None:
    (superlink,) = trained.containers("superlink")
    addresses = {
        name.removeprefix(f"{trained.name}_"): network["IPAddress"]
        for name, network in trained.inspect(superlink)["NetworkSettings"]["Networks"].items()
    }
    assert set(addresses) == {"default", "federation", "monitoring"}
    with urllib.request.urlopen(f"http://{addresses['monitoring']}:9097/metrics", timeout=20) as answer:
        metrics = answer.read().decode()
    assert 'bouquet_client_online{client="client-0"} 1.0' in metrics
    assert 'bouquet_replies_total{outcome="accepted",phase="train"}' in metrics
    client = trained.containers("supernode-cpu")[0]
    attempt = "import socket, sys; socket.create_connection((sys.argv[1], 9097), timeout=3)"
    for address in ("metrics", "superlink", *addresses.values()):
        assert trained.inside(client, "python", "-c", attempt, address).returncode != 0, address


def test_the_image_of_the_monitor_shows_the_run(trained: Stack) -> None:
    port = str(free_port())
    monitor = ("--profile", "monitor")
    try:
        trained.compose(*monitor, "build", "--quiet", "monitor", timeout=900)
        trained.compose(*monitor, "up", "--detach", "--no-deps", "monitor", TENSORBOARD_PORT=port)
        run = json.loads(trained.latest("summary.json"))["run"]

        def shown() -> bool:
            with (
                suppress(OSError),
                urllib.request.urlopen(f"http://127.0.0.1:{port}/data/runs", timeout=5) as page,
            ):
                return run in json.load(page)
            return False

        eventually(shown, within=90, what=f"TensorBoard with {run}: {trained.logs('monitor')}")
    finally:
        trained.compose(*monitor, "rm", "--stop", "--force", "monitor")


def test_a_client_reaches_the_superlink_only(trained: Stack) -> None:
    """An app that the server sends has no way to take data elsewhere."""
    client = trained.containers("supernode-cpu")[0]
    routes = trained.inside(client, "cat", "/proc/net/route").stdout.splitlines()[1:]
    assert routes, "no route to the SuperLink either"
    assert all(route.split()[1] != "00000000" for route in routes), "there is a default route"


def test_keys_stay_where_they_belong(trained: Stack) -> None:
    """The keys of the CA and the server are in no client container and in no log."""
    mounts = {
        service: {
            mount["Destination"]
            for container in trained.containers(service, all_states=True)
            for mount in trained.inspect(container)["Mounts"]
        }
        for service in ("supernode-cpu", "superlink", "train", "enroll", "prepare", "pki", "keys")
    }
    assert {service for service, paths in mounts.items() if "/pki/ca" in paths} == {"pki"}
    assert {service for service, paths in mounts.items() if "/pki/server" in paths} == {"pki", "superlink"}
    assert {service for service, paths in mounts.items() if "/keys" in paths} == {"pki", "keys"}

    (superlink,) = trained.containers("superlink")
    server_key = trained.inside(superlink, "cat", "/pki/server/server.key").stdout
    ca_key = docker(
        "run", "--rm", "--volume", f"{trained.name}_pki-ca:/pki/ca:ro", "--entrypoint", "cat",
        trained.inspect(superlink)["Config"]["Image"], "/pki/ca/ca.key",
    )  # fmt: skip
    secrets = [key.splitlines()[1] for key in (server_key, ca_key)]
    assert all(len(secret) > 40 for secret in secrets)

    client = trained.containers("supernode-cpu")[0]
    search = ["grep", "--recursive", "--files-with-matches", "--fixed-strings"]
    for secret in secrets:
        found = trained.inside(client, *search, secret, "/data", "/leases", "/tmp", "/app", "/pki")
        assert found.stdout == "", "a server's secret in a client"
        assert secret not in trained.logs()
    assert "PRIVATE KEY" not in trained.logs()


def test_each_client_has_one_key_of_its_own(trained: Stack) -> None:
    search = [
        "grep",
        "--recursive",
        "--no-filename",
        "--after-context=2",
        "PRIVATE KEY",
        "/data",
        "/leases",
        "/tmp",
        "/pki",
    ]
    found = [trained.inside(client, *search).stdout for client in trained.containers("supernode-cpu")]
    assert [keys.count("BEGIN") for keys in found] == [1] * 10
    assert len(set(found)) == 10


def files_of_layers(*images: str) -> Iterator[tuple[str, bytes]]:
    """Every file of at most 64 KiB in any layer, also those that a later layer hides."""
    with (
        subprocess.Popen(["docker", "save", *images], stdout=subprocess.PIPE) as saved,
        tarfile.open(fileobj=saved.stdout, mode="r|") as archive,
    ):
        for blob in archive:
            content = archive.extractfile(blob) if blob.isfile() else None
            if content is None or blob.size < 1024:
                continue
            try:
                with tarfile.open(fileobj=content, mode="r|") as layer:
                    for member in layer:
                        if member.isfile() and member.size <= 65536:
                            file = layer.extractfile(member)
                            assert file is not None
                            yield member.name, file.read()
            except tarfile.ReadError:
                continue  # a manifest, not a layer
    assert saved.returncode == 0


def test_no_private_key_in_any_layer(images: str) -> None:
    """Nor a compiler, a package cache or an installer in the images."""
    names = []
    for name, content in files_of_layers(f"bouquet-superlink:{images}", f"bouquet-supernode:{images}-cpu"):
        names.append(name)
        assert not PRIVATE_KEY.search(content), name
    assert any(name.endswith("app/cli/main.py") for name in names)
    commands = {PurePosixPath(name).name for name in names if "/bin/" in f"/{name}"}
    assert not commands & {"gcc", "cc", "uv", "pip", "pip3"}
    assert not [name for name in names if name.endswith((".deb", ".whl")) or "/.cache/" in name]


@pytest.mark.parametrize("image", ["bouquet-superlink:{}", "bouquet-supernode:{}-cpu"])
def test_the_images_hold_what_is_locked(images: str, image: str) -> None:
    """Above all cryptography, which Flower alone would hold at a version with a known advisory."""
    ask = "from importlib.metadata import version; print(version('cryptography'))"
    found = docker(
        "run",
        "--rm",
        "--network",
        "none",
        "--entrypoint",
        "/opt/bouquet/bin/python",
        image.format(images),
        "-c",
        ask,
    )
    lock = (ROOT / "docker" / "requirements.txt").read_text()
    assert f"\ncryptography=={found.strip()} " in lock


def test_the_image_holds_the_app_of_this_checkout(images: str) -> None:
    """A client can pin the hash of the source that it has read; `bouquet` is the installed package."""
    inside = docker("run", "--rm", f"bouquet-superlink:{images}", "app-hash").strip()
    assert inside == app_hash(ROOT)
    where = "import app; print(app.__file__)"
    place = docker("run", "--rm", "--entrypoint", "python", f"bouquet-superlink:{images}", "-P", "-c", where)
    assert place.startswith("/opt/bouquet/lib/")


def test_another_run_on_the_same_federation(trained: Stack) -> None:
    """`train` alone starts the next run; a wrong setting is one line and a status of its own."""
    wrong = trained.run("run", "--rm", "--no-TTY", "train", CONFIG="learning-rat=0.1")
    assert wrong.returncode == 2
    assert "learning-rate" in wrong.stdout + wrong.stderr
    assert "Traceback" not in wrong.stdout + wrong.stderr
    trained.compose("run", "--rm", "--no-TTY", "train", timeout=600, ROUNDS="1", CONFIG="seed=7")
    assert json.loads(trained.latest("summary.json"))["rounds"] == 1


def test_a_terminal_shows_the_live_view_of_a_run_in_containers(trained: Stack) -> None:
    program = ["docker", "compose", "--progress", "quiet", "--profile", "cpu"]
    settings = trained.environment | {"ROUNDS": "3"}
    with Terminal(
        "run", "--rm", "train", columns=100, lines=40, environment=settings, program=program
    ) as terminal:
        screen = terminal.until(lambda text: re.search(r"round [12] of 3", text) is not None, 180)
        assert all(f"client-{number} " in screen for number in range(10)), screen
        assert terminal.end(180) == 0 and "finished: 10 of 10 clients" in terminal.text
    watched = trained.compose("exec", "--no-TTY", "superlink", "bouquet", "watch", "--run", "latest")
    assert "round 3/3" in watched and "\x1b" not in watched


def test_the_server_shows_the_log_of_each_client(trained: Stack) -> None:
    for number in (0, 9):
        lines = trained.compose(
            "exec", "--no-TTY", "superlink", "bouquet", "logs", f"client-{number}", "-n", "9999"
        )
        assert "SuperNode ID:" in lines, lines


def test_scaling_keeps_ids_distinct(trained: Stack) -> None:
    """10, 9, 10: the new replica takes the id that became free, and all ten train. 11: one says there is none."""
    everyone = set(range(10))
    before = trained.partition_ids()
    assert set(before.values()) == everyone
    trained.compose("scale", "supernode-cpu=9")
    fewer = trained.partition_ids()
    assert len(fewer) == 9 and fewer.items() <= before.items()

    trained.compose("scale", "supernode-cpu=10")
    eventually(lambda: set(trained.partition_ids().values()) == everyone, within=60, what="ten distinct ids")
    trained.compose("run", "--rm", "--no-TTY", "train", timeout=600, ROUNDS="1")
    rows = csv.DictReader(io.StringIO(trained.latest("history.csv")))
    assert sorted(int(row["partition_id"]) for row in rows if row["phase"] == "train") == sorted(everyone)

    trained.compose("scale", "supernode-cpu=11")
    eventually(
        lambda: "no partition is free" in trained.logs("supernode-cpu"),
        within=60,
        what="a word from the 11th",
    )
    assert set(trained.partition_ids().values()) == everyone
    trained.compose("scale", "supernode-cpu=10")


def test_down_leaves_nothing(trained: Stack) -> None:
    """`docker compose --profile '*' down --volumes` removes every container, network and volume. Last: it ends the federation."""
    assert trained.left_over()
    trained.compose("--profile", "*", "down", "--volumes", "--timeout", "5")
    assert trained.left_over() == []
