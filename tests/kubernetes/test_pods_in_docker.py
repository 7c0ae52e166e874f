"""The pods of the rendered manifests, run outside a cluster, train two rounds with three clients.

Only the cluster itself is stood in for: its API by a small one that grants what the rendered Role grants, and
the kubelet by `docker_pods`.
"""

import csv
import json
import subprocess
import threading
import uuid
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest
from kubernetes_support.docker_pods import Host, Pod, docker, pod_of
from kubernetes_support.fake_api import FakeCluster, client_pod, serve, stateful_set
from kubernetes_support.objects import Object, find, replica_metadata
from kubernetes_support.render import overlay

CLIENTS = 3
ROUNDS = 2

pytestmark = [pytest.mark.containers, pytest.mark.timeout(1500)]


@dataclass
class Federation:
    """Everything of one federation, while it runs."""

    cluster: FakeCluster
    server: Pod
    clients: list[Pod]


@pytest.fixture(scope="module")
def federation(images: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    """The Job, the SuperLink's pod and three clients' pods, up and training."""
    folder = tmp_path_factory.mktemp("kubernetes")
    volumes = folder / "volumes"
    volumes.mkdir()
    settings = {"NUM_CLIENTS": str(CLIENTS), "ROUNDS": str(ROUNDS), "DATASET": "digits", "RUN": "test"}
    tags = {"bouquet-superlink": images, "bouquet-supernode": f"{images}-cpu"}
    objects = overlay("cpu", settings=settings, tags=tags)
    clients: list[Pod] = []

    def pods() -> list[Object]:
        return [client_pod(pod.name, pod.message("node-key") or None) for pod in clients]

    cluster = FakeCluster(find(objects, "Role", "bouquet-keys")["rules"], pods)
    cluster.objects["statefulsets", "bouquet-supernode"] = stateful_set(objects, CLIENTS)
    resources = {"ConfigMap": "configmaps", "Secret": "secrets"}
    host = Host(
        f"bouquet-test-{uuid.uuid4().hex[:8]}",
        volumes,
        objects,
        f"bouquet-superlink:{images}",
        lambda kind, name: cluster.objects.get((resources[kind], name)),
    )
    with host, serve(cluster, folder / "account") as port:
        job = pod_of(host, "Job", "bouquet-keys")
        job.give_account(folder / "account", port)
        job.create("host")
        job.start_containers()
        _wait_for_object(cluster, ("configmaps", "bouquet-ca"), job)

        workload = find(objects, "StatefulSet", "bouquet-supernode")
        for ordinal in range(workload["spec"]["replicas"]):
            pod = pod_of(host, "StatefulSet", "bouquet-supernode", replica_metadata(workload, ordinal))
            pod.create(host.name)
            clients.append(pod)
        with ThreadPoolExecutor(CLIENTS) as pool:  # as the pods of a parallel StatefulSet start
            list(pool.map(Pod.run_init_containers, clients))
        assert docker("wait", job.container_name("keys")) == "0", job.log("keys")

        server = pod_of(host, "Deployment", "bouquet-superlink")
        server.create(host.server_network)
        server.run_init_containers()
        server.start_containers()
        for pod in clients:  # they may be up before the server is
            pod.start_containers()
        server.wait_ready()
        server.serve_as("bouquet-superlink")
        for pod in clients:
            pod.wait_ready()
        yield Federation(cluster, server, clients)


def _wait_for_object(cluster: FakeCluster, key: tuple[str, str], job: Pod) -> None:
    while key not in cluster.objects:
        assert job.state("keys") == "running", job.log("keys")
        threading.Event().wait(0.5)


@pytest.fixture(scope="module")
def trained(federation: Federation) -> Federation:
    """The federation after its run."""
    container = federation.server.container_name("train")
    command = ["docker", "exec", container, "bouquet", "kubernetes", "result"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=900)
    logs = "\n".join(federation.server.log(name) for name in ("train", "superlink"))
    assert result.returncode == 0, logs + "\n".join(pod.log("supernode") for pod in federation.clients)
    return federation


def _results(federation: Federation, name: str) -> str:
    return federation.server.execute("train", "cat", f"/results/latest/{name}")


def test_the_pods_train_two_rounds_with_three_clients(trained: Federation) -> None:
    summary = json.loads(_results(trained, "summary.json"))
    assert summary["rounds"] == ROUNDS
    assert summary["num_clients"] == CLIENTS
    assert summary["mode"] == "kubernetes"
    assert summary["failures"] == []
    assert summary["accuracy"] > 0.15  # ten classes, so chance is 0.10
    rows = list(csv.DictReader(_results(trained, "history.csv").splitlines()))
    column = next(name for name in rows[0] if "partition" in name)
    assert {row[column] for row in rows if row[column]} == {"0", "1", "2"}


def test_every_container_is_still_running_and_well(trained: Federation) -> None:
    for pod in [trained.server, *trained.clients]:
        for container in pod.spec["containers"]:
            name = container["name"]
            assert pod.state(name) == "running", pod.log(name)
            assert docker("inspect", "--format", "{{.RestartCount}}", pod.container_name(name)) == "0"
            assert pod.probe(container, container["livenessProbe"]), pod.log(name)


def test_the_job_needed_no_more_than_its_role(trained: Federation) -> None:
    assert trained.cluster.refused == []
    made = {f"{kind}/{name}" for kind, name in trained.cluster.objects}
    assert {"secrets/bouquet-ca", "secrets/bouquet-server-tls", "configmaps/bouquet-ca"} <= made
    members = trained.cluster.objects["configmaps", "bouquet-members"]["data"]
    assert set(members) == {f"bouquet-supernode-{ordinal}.pub" for ordinal in range(CLIENTS)}


def test_every_process_is_unprivileged_on_a_read_only_root(federation: Federation) -> None:
    for pod in [federation.server, *federation.clients]:
        for container in pod.spec["containers"]:
            status = pod.execute(container["name"], "cat", "/proc/self/status")
            fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
            assert fields["Uid"].split() == ["10001"] * 4
            assert int(fields["CapEff"], 16) == int(fields["CapBnd"], 16) == 0
            assert fields["NoNewPrivs"] == "1"
            assert fields["Seccomp"] == "2"
            with pytest.raises(AssertionError, match="Read-only file system"):
                pod.execute(container["name"], "touch", "/app/x")


def test_a_client_holds_its_own_key_and_no_other_secret(federation: Federation) -> None:
    seen = set()
    for pod in federation.clients:
        found = pod.execute(
            "supernode", "sh", "-c", "grep -rlsI '^-----BEGIN .*PRIVATE KEY' /keys /pki /data /tmp || true"
        )
        assert found.split() == ["/keys/node.key"]
        assert pod.execute("supernode", "stat", "--format=%a %u", "/keys/node.key") == "600 10001"
        seen.add(pod.execute("supernode", "sha256sum", "/keys/node.key"))
    assert len(seen) == CLIENTS


def test_the_control_api_answers_inside_the_server_pod_only(federation: Federation) -> None:
    dial = "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), 3)"
    federation.server.execute("train", "python", "-c", dial, "127.0.0.1", "8000")
    client = federation.clients[0]
    client.execute("supernode", "python", "-c", dial, "bouquet-superlink", "9092")
    with pytest.raises(AssertionError, match="ConnectionRefusedError"):
        client.execute("supernode", "python", "-c", dial, "bouquet-superlink", "8000")


def test_a_pod_that_is_started_again_keeps_its_key_and_data(trained: Federation) -> None:
    pod = trained.clients[0]
    before = pod.message("node-key"), pod.execute("supernode", "stat", "--format=%Y", "/data")
    pod.stop()
    pod.run_init_containers()
    pod.start_containers()
    pod.wait_ready()
    assert (pod.message("node-key"), pod.execute("supernode", "stat", "--format=%Y", "/data")) == before
    assert "kept" in pod.log("node-key")


def test_a_run_outlives_the_superlinks_container_and_a_drained_server(trained: Federation) -> None:
    """By hand, as the README says. The kubelet starts a container again that has ended; here Docker does."""
    server, name = trained.server, trained.server.container_name("superlink")
    command = ["docker", "exec", server.container_name("train"), "bouquet", "train", "--rounds", "6"]
    run = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        assert run.stdout is not None
        said = _read_until(run.stdout, "round 1/")
        docker("kill", name)
        docker("start", name)
        said += _read_until(run.stdout, "goes on after round")
        assert "safe to stop" in server.execute("train", "bouquet", "drain")
        docker("restart", name)
        said += _read_until(run.stdout, "goes on after round")
        said += run.stdout.read()
        assert run.wait(60) in (0, 3), said
    finally:
        run.kill()
        run.communicate()
    rows = list(csv.DictReader(_results(trained, "history.csv").splitlines()))
    served = [row["round"] for row in rows if row["phase"] == "server"]
    assert served == ["1", "2", "3", "4", "5", "6"], said


def _read_until(lines: Iterable[str], words: str) -> str:
    said = ""
    for line in lines:
        said += line
        if words in line:
            return said
    raise AssertionError(f"it never said {words!r}: {said}")
