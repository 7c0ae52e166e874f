"""The steps that run inside pods: keys into Secrets with no more rights than the Role gives, and the run."""

import base64
import dataclasses
import json
import stat
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from federation_processes import until
from kubernetes_support.fake_api import ADDRESS, NAMESPACE, FakeCluster, client_pod, serve, stateful_set
from kubernetes_support.objects import Object, find
from kubernetes_support.render import combination

from app.errors import UserError
from app.fleet.control import Connection
from app.fleet.deployment import KubernetesSettings
from app.fleet.identity.certificates import certificate_names, is_signed_by
from app.fleet.identity.keys import load_public_key
from app.fleet.identity.members import Member
from app.fleet.kubernetes.api import Api
from app.fleet.kubernetes.enroll import enroll_all
from app.fleet.kubernetes.keys import make_client_key, make_keys, public_keys, why_not_there
from app.fleet.kubernetes.train import record_of, train_once, wait_for_result


class Clients:
    """Clients 0 to 2, each with a key on its own volume."""

    def __init__(self, folder: Path) -> None:
        self.messages: dict[str, str | None] = {}
        self.unscheduled: dict[str, str] = {}
        for ordinal in range(3):
            name = f"bouquet-supernode-{ordinal}"
            message = folder / f"{name}.message"
            message.touch()
            make_client_key(folder / name / "node.key", name, message)
            self.messages[name] = message.read_text()

    def pods(self) -> list[Object]:
        return [self._pod(name, message) for name, message in self.messages.items()]

    def _pod(self, name: str, message: str | None) -> Object:
        pod = client_pod(name, message)
        if message is None and name in self.unscheduled:
            condition = {"type": "PodScheduled", "status": "False", "message": self.unscheduled[name]}
            pod["status"] = {"phase": "Pending", "conditions": [condition]}
        return pod


@pytest.fixture
def clients(tmp_path: Path) -> Clients:
    return Clients(tmp_path)


def _cluster(clients: Clients, rendered: str) -> FakeCluster:
    objects = combination(rendered)
    cluster = FakeCluster(find(objects, "Role", "bouquet-keys")["rules"], clients.pods)
    cluster.objects["statefulsets", "bouquet-supernode"] = stateful_set(objects, 3)
    return cluster


@pytest.fixture
def cluster(clients: Clients) -> FakeCluster:
    return _cluster(clients, "cpu")


@pytest.fixture
def api(cluster: FakeCluster, tmp_path: Path) -> Iterator[Api]:
    yield from _api(cluster, tmp_path)


def _api(cluster: FakeCluster, tmp_path: Path) -> Iterator[Api]:
    account = tmp_path / "account"
    with serve(cluster, account) as port:
        yield Api(f"https://{ADDRESS}:{port}", NAMESPACE, account / "token", account / "ca.crt")


def _certificate(cluster: FakeCluster, name: str, key: str) -> x509.Certificate:
    data = cluster.objects["secrets", name]["data"][key]
    return x509.load_pem_x509_certificate(base64.b64decode(data))


def test_keys_are_made_once_with_the_rights_of_the_role(cluster: FakeCluster, api: Api) -> None:
    make_keys(api, KubernetesSettings(server_names=("fl.example.com",)), pause_s=0.01)
    server, authority = (
        _certificate(cluster, "bouquet-server-tls", "tls.crt"),
        _certificate(cluster, "bouquet-ca", "ca.crt"),
    )
    assert is_signed_by(server, authority)
    assert {"bouquet-superlink", "bouquet-superlink.bouquet.svc", "fl.example.com"} <= set(
        certificate_names(server)
    )
    assert cluster.objects["secrets", "bouquet-server-tls"]["type"] == "kubernetes.io/tls"
    assert set(cluster.objects["configmaps", "bouquet-ca"]["data"]) == {"ca.crt"}

    before = {name: item for (kind, name), item in cluster.objects.items() if kind == "secrets"}
    make_keys(api, KubernetesSettings(server_names=("fl.example.com",)), pause_s=0.01)
    assert before == {name: item for (kind, name), item in cluster.objects.items() if kind == "secrets"}
    assert cluster.refused == []


def test_the_key_of_the_ca_may_be_kept_elsewhere(cluster: FakeCluster, api: Api) -> None:
    make_keys(api, KubernetesSettings(), pause_s=0.01)
    del cluster.objects["secrets", "bouquet-ca"]["data"]["ca.key"]
    before = {name: item for (kind, name), item in cluster.objects.items() if kind == "secrets"}
    make_keys(api, KubernetesSettings(), pause_s=0.01)
    assert before == {name: item for (kind, name), item in cluster.objects.items() if kind == "secrets"}
    with pytest.raises(UserError, match=r"ca\.key must sign"):
        make_keys(api, KubernetesSettings(server_names=("fl.example.com",)), pause_s=0.01)


def test_no_public_object_holds_a_private_key(cluster: FakeCluster, api: Api) -> None:
    make_keys(api, KubernetesSettings(), pause_s=0.01)
    for (kind, _), item in cluster.objects.items():
        if kind == "configmaps":
            assert "PRIVATE KEY" not in json.dumps(item)
    server = cluster.objects["secrets", "bouquet-server-tls"]["data"]
    assert set(server) == {"tls.crt", "tls.key", "ca.crt"}


def test_the_member_list_holds_the_public_key_of_each_pod(
    cluster: FakeCluster, api: Api, clients: Clients
) -> None:
    late = clients.messages["bouquet-supernode-2"]
    clients.messages["bouquet-supernode-2"] = None
    thread = threading.Thread(target=make_keys, args=(api, KubernetesSettings()), kwargs={"pause_s": 0.01})
    thread.start()
    while cluster.asked.count("list pods") < 3:  # it waits for the last pod, however long that takes
        thread.join(0.01)
    assert ("configmaps", "bouquet-members") not in cluster.objects
    clients.messages["bouquet-supernode-2"] = late
    thread.join(30)
    members = cluster.objects["configmaps", "bouquet-members"]["data"]
    assert members == {f"{name}.pub": message for name, message in clients.messages.items()}


def test_a_client_that_finds_no_node_holds_up_nobody_and_is_named_with_the_reason(
    cluster: FakeCluster, api: Api, clients: Clients, capsys: pytest.CaptureFixture[str]
) -> None:
    late = clients.messages["bouquet-supernode-2"]
    clients.messages["bouquet-supernode-2"] = None
    clients.unscheduled["bouquet-supernode-2"] = "0/3 nodes are available: 3 Insufficient cpu."
    waiting = {"pause_s": 0.01, "patience_s": 0.1}
    thread = threading.Thread(target=make_keys, args=(api, KubernetesSettings()), kwargs=waiting)
    thread.start()
    until(lambda: ("configmaps", "bouquet-members") in cluster.objects, 30, lambda: capsys.readouterr().out)
    members = cluster.objects["configmaps", "bouquet-members"]["data"]
    assert sorted(members) == ["bouquet-supernode-0.pub", "bouquet-supernode-1.pub"]
    clients.messages["bouquet-supernode-2"] = late
    thread.join(30)
    assert len(cluster.objects["configmaps", "bouquet-members"]["data"]) == 3
    said = capsys.readouterr().out
    assert "bouquet-supernode-2: 0/3 nodes are available: 3 Insufficient cpu." in said
    assert "with 2 public keys of 3" in said and "with 3 public keys of 3" in said


@pytest.mark.parametrize(
    ("status", "why"),
    [
        ({"phase": "Pending"}, "it is pending"),
        ({"conditions": [{"type": "PodScheduled", "status": "False", "reason": "X"}]}, "X"),
        (
            {"initContainerStatuses": [{"name": "node-key", "state": {"waiting": {"reason": "ImagePullBackOff", "message": "no image"}}}]},
            "ImagePullBackOff: no image",
        ),
    ],
)  # fmt: skip
def test_the_cluster_says_why_a_pod_is_not_there(status: Object, why: str) -> None:
    assert why_not_there("a", [{"metadata": {"name": "a"}, "status": status}]) == why
    assert why_not_there("b", []) == "there is no such pod yet"


def test_a_changed_name_renews_the_certificate_under_the_same_ca(cluster: FakeCluster, api: Api) -> None:
    make_keys(api, KubernetesSettings(), pause_s=0.01)
    authority = cluster.objects["secrets", "bouquet-ca"]
    make_keys(api, KubernetesSettings(server_names=("fl.example.com", "203.0.113.7")), pause_s=0.01)
    names = certificate_names(_certificate(cluster, "bouquet-server-tls", "tls.crt"))
    assert {"fl.example.com", "203.0.113.7"} <= set(names)
    assert cluster.objects["secrets", "bouquet-ca"] == authority


def test_with_cert_manager_the_job_makes_no_secret(clients: Clients, tmp_path: Path) -> None:
    cluster = _cluster(clients, "cpu+cert-manager")
    for api in _api(cluster, tmp_path):
        thread = threading.Thread(
            target=make_keys,
            args=(api, KubernetesSettings(tls_from="cert-manager")),
            kwargs={"pause_s": 0.01},
        )
        thread.start()
        while not cluster.asked:
            thread.join(0.01)
        encoded = base64.b64encode(b"a certificate").decode()
        cluster.objects["secrets", "bouquet-server-tls"] = {"data": {"ca.crt": encoded}}
        thread.join(30)
    assert cluster.objects["configmaps", "bouquet-ca"]["data"] == {"ca.crt": "a certificate"}
    assert [name for kind, name in cluster.objects if kind == "secrets"] == ["bouquet-server-tls"]
    assert cluster.refused == []


def test_a_refusal_of_the_api_is_one_line(cluster: FakeCluster, api: Api) -> None:
    cluster.rules = []
    with pytest.raises(UserError, match=r"refused GET secrets/bouquet-server-tls: 403"):
        make_keys(api, KubernetesSettings(), pause_s=0.01)


def test_only_a_public_key_of_a_client_becomes_a_member(clients: Clients) -> None:
    good = clients.messages["bouquet-supernode-0"]
    pods = [
        client_pod("bouquet-supernode-0", good),
        client_pod("bouquet-supernode-1", "-----BEGIN OPENSSH PRIVATE KEY-----"),
        client_pod("bouquet-supernode-2", f"{good}\nsecond line"),
        client_pod("bouquet-supernode-3", good),
        client_pod("someone-0", good),
    ]
    assert public_keys(pods, 3) == {"bouquet-supernode-0": good}


def test_a_restarted_pod_keeps_its_place_by_its_last_message(clients: Clients) -> None:
    pod = client_pod("bouquet-supernode-0", None)
    last = {"terminated": {"message": clients.messages["bouquet-supernode-0"]}}
    pod["status"]["initContainerStatuses"][0]["lastState"] = last
    assert set(public_keys([pod], 1)) == {"bouquet-supernode-0"}


def test_a_client_keeps_its_key_and_keeps_it_private(tmp_path: Path) -> None:
    key, message = tmp_path / "keys" / "node.key", tmp_path / "message"
    make_client_key(key, "bouquet-supernode-0", message)
    first, content = message.read_text(), key.read_bytes()
    key.chmod(0o660)  # what a volume mounted again with fsGroup can look like
    make_client_key(key, "bouquet-supernode-0", message)
    assert (message.read_text(), key.read_bytes()) == (first, content)
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert "PRIVATE" not in first


def _command(tmp_path: Path, statuses: str) -> tuple[str, ...]:
    """A stand-in for `bouquet train` that ends with the next of `statuses` at each call."""
    script = (
        "import pathlib, sys; log = pathlib.Path(sys.argv[1]); log.open('a').write('.')\n"
        "sys.exit(int(sys.argv[2].split()[len(log.read_text()) - 1]))"
    )
    return (sys.executable, "-c", script, str(tmp_path / "calls"), statuses)


@pytest.mark.parametrize(
    ("statuses", "calls", "end"),
    [("0 9", 1, 0), ("3 9", 1, 3), ("1 0 9", 2, 0), ("1 1 1 9", 3, 1), ("2 9", 1, 2)],
    ids=["finished", "on a subset", "failed once", "failed for good", "wrong settings"],
)
def test_the_run_is_tried_again_only_where_that_can_help(
    tmp_path: Path, statuses: str, calls: int, end: int
) -> None:
    settings = KubernetesSettings(run="first", state=tmp_path)
    status = train_once(settings, lambda: None, command=_command(tmp_path, statuses), pause_s=0)
    assert status == end == wait_for_result(settings)
    assert len((tmp_path / "calls").read_text()) == calls


def test_a_finished_run_is_not_started_again_and_another_name_is(tmp_path: Path) -> None:
    settings = KubernetesSettings(run="first", state=tmp_path)
    command = _command(tmp_path, "0 0")
    for name, calls in (("first", 1), ("first", 1), ("second", 2)):
        train_once(dataclasses.replace(settings, run=name), lambda: None, command=command, pause_s=0)
        assert len((tmp_path / "calls").read_text()) == calls


@pytest.mark.parametrize("name", ["", "../first", "a b"])
def test_a_run_without_a_proper_name_is_refused(name: str) -> None:
    with pytest.raises(UserError, match="RUN="):
        record_of(KubernetesSettings(run=name))


class FakeMembers:
    """A SuperLink's members in memory, in place of `app.fleet.identity.members`; like Flower, it never takes a key twice."""

    def __init__(self) -> None:
        self.known: list[Member] = []

    def members(self, connection: Connection) -> list[Member]:
        return list(self.known)

    def enroll(self, name: str, file: Path, connection: Connection) -> str:
        key = load_public_key(file).public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        for member in self.known:
            if member.public_key == key and member.status == "revoked":
                raise UserError("this key was revoked")
            if member.public_key == key:
                return f"{name} is enrolled already"
        self.known.append(Member(name, "", len(self.known), "enrolled", None, key))
        return f"{name} enrolled"

    def revoke(self, name: str, connection: Connection) -> str:
        self.known = [
            dataclasses.replace(member, status="revoked") if member.name == name else member
            for member in self.known
        ]
        return f"{name} revoked"

    @property
    def present(self) -> list[str]:
        return [member.name for member in self.known if member.status != "revoked"]


@pytest.fixture
def members(monkeypatch: pytest.MonkeyPatch) -> FakeMembers:
    fake = FakeMembers()
    for name in ("members", "enroll", "revoke"):
        monkeypatch.setattr(f"app.fleet.identity.members.{name}", getattr(fake, name))
    return fake


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "members").mkdir()
    return tmp_path / "members"


def test_the_members_follow_the_list_and_nobody_is_revoked_for_being_scaled_away(
    clients: Clients, members: FakeMembers, folder: Path
) -> None:
    for name, message in clients.messages.items():
        (folder / f"{name}.pub").write_text(message or "")
    assert enroll_all(folder, Connection(), print) == 3
    assert members.present == list(clients.messages)
    (folder / "bouquet-supernode-2.pub").unlink()
    assert enroll_all(folder, Connection(), print) == 2
    assert members.present == list(clients.messages)


def test_a_client_with_a_new_key_replaces_its_old_one(
    clients: Clients, members: FakeMembers, folder: Path
) -> None:
    first, second, _ = clients.messages.values()
    for message in (first, second):
        (folder / "bouquet-supernode-0.pub").write_text(message or "")
        enroll_all(folder, Connection(), print)
    assert [member.status for member in members.known] == ["revoked", "enrolled"]
    lines: list[str] = []
    (folder / "bouquet-supernode-0.pub").write_text(first or "")
    enroll_all(folder, Connection(), lines.append)
    assert [member.status for member in members.known] == ["revoked", "enrolled"]
    assert "this key was revoked" in lines[-1]


def test_a_file_without_a_public_key_keeps_no_other_out(
    clients: Clients, members: FakeMembers, folder: Path
) -> None:
    (folder / "a.pub").write_text("hello")
    (folder / "b.pub").write_text(clients.messages["bouquet-supernode-0"] or "")
    lines: list[str] = []
    enroll_all(folder, Connection(), lines.append)
    assert members.present == ["b"]
    assert lines[0].startswith("a: left out")
