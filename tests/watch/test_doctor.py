"""`bouquet doctor` against set-ups that are broken in one place: the line that is about it says so, all others stay good."""

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from container_engine import ROOT, cannot_run
from federation_processes import bouquet, until
from identity_site import Site as Federation
from memory_limit import memory_limit
from PIL import Image

from app.fleet.fleet_api import about
from app.fleet.host.ports import free_port
from app.fleet.identity import certificates, keys
from app.learning.data.prepare import Request, prepare
from app.watch.doctor.examine import examine
from app.watch.doctor.rule import CLIENT, GOOD, SERVER, SKIPPED, UNREACHABLE, WRONG, Finding
from app.watch.doctor.rules import RULES
from app.watch.doctor.site import Site

pytestmark = pytest.mark.federation

DOCKER = """#!/bin/sh
case "$1" in
info) echo '{{"ServerVersion": "26.1.5", "Runtimes": {runtimes}}}' ;;
compose) echo {compose} ;;
esac
"""
NVIDIA_SMI = """#!/bin/sh
echo "0, NVIDIA H200, 143771, 143000, 570.00"
"""
NOBODY = 65534


def write_program(folder: Path, name: str, text: str) -> Path:
    """A stand-in for a program that this machine lacks, or has in another version."""
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(text)
    (folder / name).chmod(0o755)
    return folder


@dataclass
class Place:
    """A federation whose SuperLink runs, and what is right on one of its clients and on its server."""

    federation: Federation
    folder: Path
    store: Path
    programs: Path
    expired: Federation

    def client(self, **changed: str) -> dict[str, str]:
        """The environment of the client, with what is broken in it."""
        return {
            "PATH": str(self.programs),
            "SUPERLINK": f"localhost:{self.federation.fleet_port}",
            "BOUQUET_CA": str(self.federation.certificates / "ca.crt"),
            "BOUQUET_NODE_KEY": str(self.folder / "node.key"),
            "BOUQUET_DATA": str(self.store),
            "BOUQUET_HEALTH_PORT": "0",
            "NUM_CLIENTS": "3",
            "PARTITION_ID": "0",
        } | changed

    def server(self, tmp_path: Path, **changed: str) -> dict[str, str]:
        """The environment of a server that is about to start."""
        return {
            "PATH": str(self.programs),
            "BOUQUET_CERTIFICATES": str(self.federation.certificates),
            "BOUQUET_STATE": str(tmp_path / "state"),
            "BOUQUET_RESULTS": str(tmp_path / "results"),
            "BOUQUET_DATA": str(self.store),
        } | changed


@pytest.fixture(scope="module")
def place(
    federation: Federation, tmp_path_factory: pytest.TempPathFactory, small_store: Path
) -> Iterator[Place]:
    """Two SuperLinks for all tests of this module: the good one, and one whose certificate has expired."""
    folder, pki = tmp_path_factory.mktemp("doctor"), federation.certificates
    now = datetime.now(UTC)
    certificates.issue_server(pki, out=folder / "old", now=now - timedelta(days=400))
    programs = write_program(
        folder / "programs", "docker", DOCKER.format(runtimes='{"runc": {}}', compose="2.26.1")
    )
    expired = Federation(folder, folder / "old")
    try:
        yield Place(federation, federation.folder, small_store, programs, expired.ready())
    finally:
        expired.stop()


def looked_at(role: str, environment: Mapping[str, str], **given: str) -> dict[str, Finding]:
    """What doctor finds, by rule."""
    return {check.rule.name: check.finding for check in examine(Site(role, given, environment), RULES)}


def by_command(role: str, environment: Mapping[str, str], *options: str) -> tuple[int, dict[str, Finding]]:
    """The same by the command, as a process of its own."""
    done = bouquet("doctor", "--role", role, "--json", *options, environment=environment)
    assert done.stdout, done.stderr
    return done.returncode, {
        check["name"]: Finding(check["result"], check["why"], check["fix"])
        for check in json.loads(done.stdout)["checks"]
    }


def only(found: Mapping[str, Finding], name: str, result: str, *words: str) -> None:
    """The line ``name`` has the problem with ``words`` in it, and no other line has one."""
    bad = {rule: finding for rule, finding in found.items() if finding.result in (WRONG, UNREACHABLE)}
    assert set(bad) == {name}, bad
    assert bad[name].result == result and bad[name].fix, bad
    assert all(word in f"{bad[name].why} {bad[name].fix}" for word in words), bad[name]


# -- what is good -------------------------------------------------------------------------------


def test_a_good_client_is_good_in_every_line(place: Place) -> None:
    status, found = by_command(CLIENT, place.client())
    assert status == 0 and {finding.result for finding in found.values()} <= {GOOD, SKIPPED}, found
    skipped = {name for name, finding in found.items() if finding.result == SKIPPED}
    assert skipped == {"nvidia-runtime", "pictures", "driver", "gpu", "gpu-memory"}
    assert found["enrolment"].why == "as hospital-a" and "flwr 1.39" in found["versions"].why
    assert found["shape"].why == "3x32x32, 10 classes" and "airplane" in found["classes"].why


def test_a_good_server_is_good_in_every_line(place: Place, tmp_path: Path) -> None:
    found = looked_at(
        SERVER, place.server(tmp_path), fleet_address=f"127.0.0.1:{free_port()}", control_port="0"
    )
    assert {finding.result for finding in found.values()} <= {GOOD, SKIPPED}, found
    assert {name for name, finding in found.items() if finding.result == SKIPPED} == {"driver"}
    assert not (tmp_path / "state").exists() and not (tmp_path / "results").exists(), "it writes nothing"


def test_a_server_that_runs_has_its_ports(place: Place, tmp_path: Path) -> None:
    """Doctor beside a running SuperLink calls nothing wrong; the tests' own SuperLink has another command line."""
    environment = place.server(tmp_path)
    command = [
        sys.executable,
        "-c",
        "import socket, sys; s = socket.create_server(('127.0.0.1', int(sys.argv[1]))); input()",
    ]
    port = free_port()
    with subprocess.Popen([*command, str(port), "superlink"], stdin=subprocess.PIPE) as running:
        until(lambda: not socket.socket().connect_ex(("127.0.0.1", port)), 30, lambda: "nobody listens")
        found = looked_at(SERVER, environment, fleet_address=f"127.0.0.1:{port}", control_port="0")
        running.communicate(b"\n")
    assert (found["ports"].result, found["ports"].why) == (GOOD, "it is running")


# -- twenty that are broken ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def wrong_clock(tmp_path_factory: pytest.TempPathFactory) -> str:
    library = tmp_path_factory.mktemp("clock") / "wrong_clock.so"
    command = [
        "cc",
        "-shared",
        "-fPIC",
        "-o",
        str(library),
        str(ROOT / "tests" / "support" / "wrong_clock.c"),
        "-ldl",
    ]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except OSError:
        cannot_run("there is no C compiler for the library that changes the clock")
    return str(library)


@pytest.mark.parametrize(("off_by", "words"), [("-7200", "7200.0 s behind"), ("7200", "7200.0 s ahead")])
def test_a_wrong_clock(place: Place, wrong_clock: str, off_by: str, words: str) -> None:
    """By two hours, with which Flower refuses each call and TLS the client's own certificate."""
    environment = place.client(LD_PRELOAD=wrong_clock, CLOCK_OFF_BY=off_by)
    if off_by.startswith("-"):  # by then the server's certificate was not made yet
        environment["CLOCK_OFF_BY"], words = "-1800", "1800.0 s behind"
    status, found = by_command(CLIENT, environment)
    assert status == 1
    only(found, "clock", WRONG, words.split(".")[0], words.split()[-1], "NTP")


def test_an_expired_certificate(place: Place) -> None:
    found = looked_at(CLIENT, place.client(SUPERLINK=f"localhost:{place.expired.fleet_port}"))
    only(found, "certificate", WRONG, "expired on", "bouquet pki renew")
    assert found["clock"] == Finding(SKIPPED, "not looked at, because of certificate")


def test_a_certificate_of_another_name(place: Place) -> None:
    found = looked_at(
        CLIENT, place.client(SUPERLINK=f"127.1:{place.federation.fleet_port}")
    )  # 127.0.0.1, in short
    only(found, "certificate", WRONG, "does not name 127.1; it names superlink, localhost, 127.0.0.1")


def test_a_certificate_of_another_ca(place: Place, tmp_path: Path) -> None:
    certificates.init_ca(tmp_path)
    found = looked_at(CLIENT, place.client(BOUQUET_CA=str(tmp_path / "ca.crt")))
    only(
        found,
        "tls",
        WRONG,
        "not signed by this client's CA",
        "the ca.crt that the server's operator gave out",
    )


def test_a_key_that_is_not_enrolled(place: Place, tmp_path: Path) -> None:
    pair = keys.make_node_key(tmp_path / "stranger.key")
    found = looked_at(CLIENT, place.client(BOUQUET_NODE_KEY=str(pair.path)))
    only(found, "enrolment", WRONG, pair.fingerprint, "bouquet enroll")


def test_a_key_that_others_can_read(place: Place, tmp_path: Path) -> None:
    key = tmp_path / "node.key"
    shutil.copy(place.folder / "node.key", key)
    key.chmod(0o644)
    found = looked_at(CLIENT, place.client(BOUQUET_NODE_KEY=str(key)))
    only(found, "key", WRONG, "can be read by others (mode 0644)", f"chmod 600 {key}")


def test_a_port_that_is_taken(place: Place, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        found = looked_at(SERVER, place.server(tmp_path), fleet_address=address, control_port="0")
    only(found, "ports", WRONG, "--fleet-address", "Address already in use")


def test_a_name_that_nobody_knows(place: Place) -> None:
    status, found = by_command(CLIENT, place.client(SUPERLINK="no-such-host.invalid:9092"))
    assert status == 2
    only(found, "name", UNREACHABLE, "no-such-host.invalid cannot be resolved", "resolv.conf")


@pytest.fixture
def volume(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Mounts a small volume with the options given."""
    folder = tmp_path / "volume"
    folder.mkdir()
    mounted = False

    def mount(options: str) -> Path:
        nonlocal mounted
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
        if os.geteuid() or subprocess.run(command, capture_output=True).returncode:
            pytest.skip("no volume can be mounted here, which needs root")
        mounted = True
        return folder

    yield mount
    if mounted:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_disk_without_space(place: Place, tmp_path: Path, volume: Callable[[str], Path]) -> None:
    folder = volume("size=8m")
    found = looked_at(
        SERVER, place.server(tmp_path, BOUQUET_RESULTS=str(folder)), fleet_address="127.0.0.1:0"
    )
    only(found, "disk", WRONG, f"{folder} has 8 MiB free", "BOUQUET_RESULTS")


def test_a_volume_that_is_read_only(place: Place, tmp_path: Path, volume: Callable[[str], Path]) -> None:
    folder = volume("size=512m,ro")
    found = looked_at(SERVER, place.server(tmp_path, BOUQUET_STATE=str(folder)), fleet_address="127.0.0.1:0")
    only(found, "volumes", WRONG, f"{folder} is on a volume that is mounted read-only", "BOUQUET_STATE")


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user, which needs root")
def test_a_folder_of_another_user() -> None:
    """In a process that becomes that user when it has imported all, because it may not be allowed to read the code."""
    program = (
        "import os, sys\n"
        "from app.watch.doctor import examine, report, rules, site\n"
        "import app.fleet.identity.keys, psutil\n"
        "os.setgroups([]); os.setuid(int(sys.argv[1])); os.chdir('/')\n"
        "place = site.Site('client', {'insecure': True}, {'BOUQUET_LEASES': sys.argv[2], 'BOUQUET_HEALTH_PORT': '0'})\n"
        "checks = list(examine.examine(place, rules.RULES, lambda rule: rule.quick))\n"
        "print(report.as_json(checks, 'client'))\n"
    )
    folder = tempfile.mkdtemp(dir="/tmp")
    try:
        Path(folder).chmod(0o755)
        command = [sys.executable, "-c", program, str(NOBODY), folder]
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=120)
    finally:
        Path(folder).rmdir()
    found = {
        each["name"]: Finding(each["result"], each["why"], each["fix"])
        for each in json.loads(done.stdout)["checks"]
    }
    only(
        found,
        "volumes",
        WRONG,
        f"{folder} belongs to user 0, and user {NOBODY} cannot write",
        f"chown {NOBODY}",
    )


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A client's own pictures: two classes."""
    for name, grey in (("healthy", 40), ("ill", 200)):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        for number in range(4):
            Image.new("RGB", (16, 16), (grey, grey, number)).save(
                tmp_path / "pictures" / name / f"{number}.png"
            )
    return tmp_path / "pictures"


def test_a_picture_without_bytes(place: Place, pictures: Path) -> None:
    environment = place.client(DATASET=str(pictures))
    assert looked_at(CLIENT, environment)["pictures"].result == GOOD
    (pictures / "ill" / "2.png").write_bytes(b"")
    only(
        looked_at(CLIENT, environment),
        "pictures",
        WRONG,
        "1 of 8 pictures cannot be read",
        str(pictures / "ill" / "2.png"),
    )


def test_a_picture_that_is_cut_short(place: Place, pictures: Path) -> None:
    file = pictures / "ill" / "2.png"
    file.write_bytes(file.read_bytes()[:40])
    only(looked_at(CLIENT, place.client(DATASET=str(pictures))), "pictures", WRONG, str(file), "TOLERANCE=1")


def test_a_class_that_is_missing_in_the_prepared_data(place: Place, tmp_path: Path) -> None:
    store = tmp_path / "store"
    shutil.copytree(place.store, store)
    labels = np.load(store / "partition-0" / "train_labels.npy")
    np.save(store / "partition-0" / "train_labels.npy", np.where(labels == 3, 4, labels))
    only(
        looked_at(CLIENT, place.client(BOUQUET_DATA=str(store))),
        "classes",
        WRONG,
        "partition 0 has no picture of cat",
    )
    assert (
        looked_at(CLIENT, place.client(BOUQUET_DATA=str(store), PARTITION_ID="1"))["classes"].result == GOOD
    )


def test_a_class_that_is_missing_among_the_pictures(place: Place, pictures: Path) -> None:
    environment = place.client(DATASET=str(pictures), BOUQUET_DATA="")
    found = looked_at(CLIENT, environment, classes="healthy,ill,unclear")
    only(found, "classes", WRONG, "has no picture of unclear")
    for file in (pictures / "ill").iterdir():
        file.unlink()
    only(looked_at(CLIENT, environment), "classes", WRONG, "has no picture of ill")


def test_data_of_another_shape(place: Place, tmp_path: Path) -> None:
    prepare(
        Request(str(ROOT / "tests" / "data" / "cifar10"), num_partitions=3, image_size=16), tmp_path / "small"
    )
    found = looked_at(CLIENT, place.client(BOUQUET_DATA=str(tmp_path / "small")))
    only(found, "shape", WRONG, "are 3x16x16 but the model is for 3x32x32", "--image-size 32")


def test_no_data_at_all(place: Place, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    only(
        looked_at(CLIENT, place.client(BOUQUET_DATA=str(tmp_path / "empty"))),
        "store",
        WRONG,
        "no prepared data",
    )
    only(looked_at(CLIENT, place.client(BOUQUET_DATA="")), "store", WRONG, "BOUQUET_DATA is not set")


def test_data_for_another_number_of_clients(place: Place) -> None:
    only(
        looked_at(CLIENT, place.client(NUM_CLIENTS="4")),
        "store",
        WRONG,
        "was prepared for 3",
        "NUM_CLIENTS=3",
    )


def test_a_partition_that_the_federation_has_not(place: Place) -> None:
    only(
        looked_at(CLIENT, place.client(PARTITION_ID="3")),
        "partition",
        WRONG,
        "PARTITION_ID='3'",
        "from 0 to 2",
    )


def test_no_partition_that_is_free(place: Place, tmp_path: Path) -> None:
    import fcntl

    environment = place.client(PARTITION_ID="", BOUQUET_LEASES=str(tmp_path))
    with ExitStack() as held:
        for number in range(3):
            handle = held.enter_context((tmp_path / f"{number}.lock").open("w"))
            fcntl.flock(handle, fcntl.LOCK_EX)
        only(looked_at(CLIENT, environment), "partition", WRONG, "all 3 ids", "NUM_CLIENTS")
    assert looked_at(CLIENT, environment)["partition"].why == "3 of 3 are free"


def test_too_little_memory(place: Place) -> None:
    program = (
        "import sys\nfrom app.watch.doctor import examine, report, rules, site\ninput()\n"
        "checks = list(examine.examine(site.Site('client'), rules.RULES))\nprint(report.as_json(checks, 'client'))\n"
    )
    with (
        memory_limit(f"bouquet-doctor-{os.getpid()}") as limit,
        subprocess.Popen(
            [sys.executable, "-c", program],
            cwd=ROOT,
            env=place.client(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        ) as process,
    ):
        limit.take(process)
        limit.leave_free(300 << 20)
        output, _ = process.communicate(b"\n", timeout=120)
    found = {
        each["name"]: Finding(each["result"], each["why"], each["fix"])
        for each in json.loads(output)["checks"]
    }
    only(found, "memory", WRONG, "MiB are left of the limit of", "needs 512 MiB", "SUPERNODE_MEMORY")


def test_an_old_compose(place: Place, tmp_path: Path) -> None:
    """A stand-in for Docker: the machine has another one, or none."""
    programs = write_program(tmp_path / "old", "docker", DOCKER.format(runtimes="{}", compose="2.6.0"))
    found = looked_at(CLIENT, place.client(PATH=str(programs)))
    only(found, "compose", WRONG, "Compose is 2.6.0, and compose.yaml needs 2.20", "upgrade")


def test_an_engine_that_does_not_answer(place: Place, tmp_path: Path) -> None:
    programs = write_program(
        tmp_path / "silent", "docker", "#!/bin/sh\necho Cannot connect to the daemon >&2\nexit 1\n"
    )
    found = looked_at(CLIENT, place.client(PATH=str(programs)))
    only(found, "engine", UNREACHABLE, "Cannot connect to the daemon", "MODE=local")


@pytest.fixture(scope="module")
def fake_gpu(tmp_path_factory: pytest.TempPathFactory) -> str:
    library = tmp_path_factory.mktemp("gpu") / "fake_gpu.so"
    try:
        source = ROOT / "tests" / "federation" / "fake_gpu.c"
        subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source], check=True, capture_output=True)
    except OSError:
        cannot_run("there is no C compiler for the library that stands in for a GPU")
    return str(library)


@pytest.fixture(scope="module")
def with_gpu(place: Place, fake_gpu: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A client on a machine with a GPU: a driver's program, an engine that can give it, and a library that shows it to torch."""
    folder = tmp_path_factory.mktemp("gpu") / "programs"
    write_program(folder, "docker", DOCKER.format(runtimes='{"nvidia": {}, "runc": {}}', compose="2.26.1"))
    write_program(folder, "nvidia-smi", NVIDIA_SMI)
    return place.client(PATH=str(folder), LD_PRELOAD=fake_gpu)


def test_a_gpu_is_seen_and_is_large_enough(with_gpu: dict[str, str]) -> None:
    found = looked_at(CLIENT, with_gpu)
    assert {finding.result for finding in found.values()} <= {GOOD, SKIPPED}, found
    assert "sees 1" in found["gpu"].why and "143,000 MiB are free for 1 client" in found["gpu-memory"].why


def test_a_gpu_that_is_hidden(with_gpu: dict[str, str]) -> None:
    found = looked_at(CLIENT, with_gpu | {"CUDA_VISIBLE_DEVICES": ""})
    only(found, "gpu", WRONG, "a GPU is here, and CUDA_VISIBLE_DEVICES= hides it")


def test_no_nvidia_runtime(place: Place, with_gpu: dict[str, str], tmp_path: Path) -> None:
    programs = write_program(
        tmp_path / "gpu", "docker", DOCKER.format(runtimes='{"runc": {}}', compose="2.26.1")
    )
    write_program(programs, "nvidia-smi", NVIDIA_SMI)
    environment = with_gpu | {"PATH": str(programs), "BOUQUET_DEVICE": "cpu"}
    only(looked_at(CLIENT, environment), "nvidia-runtime", WRONG, "it has no NVIDIA runtime", "nvidia-ctk")


def test_another_flower(place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "flwr-1.38.0.dist-info").mkdir()
    (tmp_path / "flwr-1.38.0.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: flwr\nVersion: 1.38.0\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    found = looked_at(CLIENT, place.client())
    only(found, "versions", WRONG, "flwr is 1.38.0 here and 1.39.0 on the SuperLink", "flwr==1.39.0")


def test_a_superlink_that_is_down(place: Place) -> None:
    found = looked_at(CLIENT, place.client(SUPERLINK=f"localhost:{free_port()}"))
    only(found, "superlink", UNREACHABLE, "nothing listens at this port", "9092")


def test_a_superlink_behind_a_closed_port(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full queue of a socket drops what knocks, as a firewall does."""
    from app.watch.doctor.network import door

    monkeypatch.setattr(door, "PATIENCE_S", 0.5)
    with ExitStack() as open_, socket.create_server(("127.0.0.1", 0), backlog=0) as silent:
        for _ in range(3):
            waiting = open_.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(silent.getsockname())
        found = looked_at(CLIENT, place.client(SUPERLINK=f"127.0.0.1:{silent.getsockname()[1]}"))
    only(found, "superlink", UNREACHABLE, "cannot be connected to (no answer)", "firewall")


def test_what_answers_is_no_superlink(place: Place) -> None:
    found = looked_at(CLIENT, place.client(SUPERLINK=f"localhost:{place.federation.health_port}"))
    only(found, "tls", WRONG, "SUPERLINK must be the Fleet API")


def test_a_setting_that_cannot_be_used(place: Place) -> None:
    status, found = by_command(CLIENT, place.client(NUM_CLIENTS="many"))
    assert status == 1
    only(found, "settings", WRONG, "NUM_CLIENTS='many'", "a whole number")


# -- the SuperLink's side -----------------------------------------------------------------------


def test_strangers_are_told_nothing(place: Place, tmp_path: Path) -> None:
    """Without a certificate nobody gets as far; a member's certificate with a signature of another key is refused."""
    stranger = keys.load_node_key(keys.make_node_key(tmp_path / "stranger.key").path)
    with place.federation.channel(None) as channel, pytest.raises(grpc.RpcError):
        channel.unary_unary(about.METHOD)(b"", timeout=5)
    from flwr.client.grpc_rere_client.node_auth_client_interceptor import NodeAuthClientInterceptor

    for metadata in (
        [],
        [("flwr-public-key-bin", b"\xff"), ("flwr-timestamp", "x"), ("flwr-signature-bin", b"")],
    ):
        with (
            place.federation.channel(place.folder / "node.key") as channel,
            pytest.raises(grpc.RpcError) as refusal,
        ):
            channel.unary_unary(about.METHOD)(b"", timeout=5, metadata=metadata)
        assert refusal.value.code() == grpc.StatusCode.UNAUTHENTICATED
    with (
        place.federation.channel(place.folder / "node.key") as channel,
        pytest.raises(grpc.RpcError) as refusal,
    ):
        signed = grpc.intercept_channel(channel, NodeAuthClientInterceptor(*stranger))
        signed.unary_unary(about.METHOD)(b"", timeout=5)
    assert refusal.value.code() == grpc.StatusCode.UNAUTHENTICATED


def test_a_member_that_asks_too_often_is_told_so(place: Place) -> None:
    nodes: Any = lambda: []  # noqa: E731
    told = about.About(nodes, None, authenticated=False)
    answers = 0
    with pytest.raises(about.Refused, match="too often"):
        for _ in range(about.MOST_QUESTIONS + 1):
            told.answer(about.Details(about.METHOD, (), "peer"))
            answers += 1
    assert answers == about.MOST_QUESTIONS
