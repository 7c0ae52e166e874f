"""Keys of a federation on Kubernetes: made once, kept in Secrets, each seen by who needs it.

| object                      | holds                           | read by                      |
|-----------------------------|---------------------------------|------------------------------|
| Secret bouquet-ca           | the CA's key                    | the Job alone, no pod mounts it |
| Secret bouquet-server-tls   | the server's certificate and key | the SuperLink               |
| ConfigMap bouquet-ca        | the CA's certificate            | every client                 |
| ConfigMap bouquet-members   | the clients' public keys        | the container that enrols    |
"""

import base64
import re
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from app.errors import UserError
from app.files import PRIVATE, PUBLIC, write_atomically
from app.fleet.deployment import KubernetesSettings
from app.fleet.identity.certificates import init_ca, issue_server
from app.fleet.identity.keys import make_node_key
from app.fleet.kubernetes.api import Api, Object

CA_SECRET = "bouquet-ca"
SERVER_SECRET = "bouquet-server-tls"
CA_CONFIG = "bouquet-ca"
MEMBERS_CONFIG = "bouquet-members"
CLIENTS = "bouquet-supernode"
CLIENT_LABELS = "app.kubernetes.io/name=bouquet,app.kubernetes.io/component=supernode"
KEY_CONTAINER = "node-key"
PATIENCE_S = 120.0  # images are pulled in that time, mostly
TERMINATION_MESSAGE = Path("/dev/termination-log")

# A Secret's key for each file that `app.fleet.identity.certificates` reads and writes.
_CA_FILES = {"ca.key": "ca.key", "ca.crt": "ca.crt"}
_SERVER_FILES = {"tls.key": "server.key", "tls.crt": "server.crt", "ca.crt": "ca.crt"}


def make_keys(
    api: Api, settings: KubernetesSettings, *, pause_s: float = 2.0, patience_s: float = PATIENCE_S
) -> None:
    """Fill the Secrets and ConfigMaps that the pods mount. Twice changes nothing but what must change.

    Args:
        api: the cluster's.
        settings: of this step.
        pause_s: between two looks at the pods.
        patience_s: after which the clients that have a key are listed, though others have none yet.
    """
    if settings.tls_from == "cert-manager":
        authority = _wait_for(lambda: _ca_of(api.get("secrets", SERVER_SECRET)), SERVER_SECRET, pause_s)
    else:
        authority = _own_certificates(api, _service_names(api.namespace, settings.server_names))
    print(f"ConfigMap {CA_CONFIG}: {api.write('configmaps', _config(CA_CONFIG, {'ca.crt': authority}))}")

    count = _replicas(api)

    def list_members(keys: Mapping[str, str]) -> None:
        members = _config(MEMBERS_CONFIG, {f"{name}.pub": key for name, key in keys.items()})
        print(
            f"ConfigMap {MEMBERS_CONFIG} with {len(keys)} public keys of {count}: {api.write('configmaps', members)}",
            flush=True,
        )

    _follow_public_keys(api, count, list_members, pause_s, patience_s)


def public_keys(pods: Iterable[Object], count: int) -> dict[str, str]:
    """The public key of each of the clients 0 to `count - 1` whose pod has reported one, by pod name."""
    found: dict[str, str] = {}
    for pod in pods:
        name = pod["metadata"]["name"]
        for container in pod.get("status", {}).get("initContainerStatuses", []):
            # While an init container runs again after a restart, its last message still stands.
            states = (container.get("state", {}), container.get("lastState", {}))
            for state in states:
                message = state.get("terminated", {}).get("message", "").strip()
                if (
                    container["name"] == KEY_CONTAINER
                    and name in _expected(count)
                    and _is_public_key(message)
                ):
                    found.setdefault(name, message)
    return dict(sorted(found.items()))


def make_client_key(path: Path, comment: str, message: Path = TERMINATION_MESSAGE) -> None:
    """Make this client's key unless it is there, and leave the public half where the kubelet reads it."""
    if path.exists():
        path.chmod(PRIVATE)  # a volume that the kubelet handed to our group again is group-readable
    key = make_node_key(path, comment=comment)
    message.write_text(key.public_text)
    print(f"{path}: {'made' if key.made else 'kept'}, {key.fingerprint}")


def _own_certificates(api: Api, names: Iterable[str]) -> str:
    """Make what is missing or about to expire of the CA and the server's certificate; return `ca.crt`."""
    with tempfile.TemporaryDirectory() as aside:
        folder = Path(aside)
        for secret, files in ((SERVER_SECRET, _SERVER_FILES), (CA_SECRET, _CA_FILES)):
            data = (api.get("secrets", secret) or {}).get("data", {})
            for key, file in files.items():
                if key in data:
                    private = file.endswith(".key")
                    write_atomically(
                        folder / file, base64.b64decode(data[key]), PRIVATE if private else PUBLIC
                    )
        before = _contents(folder)
        print(init_ca(folder).replace(f"{folder}/", ""))
        print(issue_server(folder, names).replace(f"{folder}/", ""))
        after = _contents(folder)
        for secret, files, kind in (
            (CA_SECRET, _CA_FILES, "Opaque"),
            (SERVER_SECRET, _SERVER_FILES, "kubernetes.io/tls"),
        ):
            if any(before.get(file) != after.get(file) for file in files.values()):
                data = {
                    key: base64.b64encode(after[file]).decode()
                    for key, file in files.items()
                    if file in after
                }
                body = {"apiVersion": "v1", "kind": "Secret", "metadata": _metadata(secret)}
                print(f"Secret {secret}: {api.write('secrets', body | {'type': kind, 'data': data})}")
        return (folder / "ca.crt").read_text()


def _service_names(namespace: str, extra: Iterable[str]) -> list[str]:
    service = f"bouquet-superlink.{namespace}"
    return [
        *extra,
        "bouquet-superlink",
        service,
        f"{service}.svc",
        f"{service}.svc.cluster.local",
    ]


def _ca_of(secret: Object | None) -> str:
    return base64.b64decode((secret or {}).get("data", {}).get("ca.crt", "")).decode()


def _wait_for(look: Callable[[], str], what: str, pause_s: float) -> str:
    while not (found := look()):
        print(f"waiting for Secret {what} with ca.crt, tls.crt and tls.key", flush=True)
        time.sleep(pause_s)
    return found


def _follow_public_keys(
    api: Api, count: int, listed: Callable[[Mapping[str, str]], None], pause_s: float, patience_s: float
) -> None:
    """Hand on the public keys when all are there; after ``patience_s`` those that are, and then each newcomer.

    So a client that finds no node holds up nobody else. What keeps each one is said.
    """
    said, handed_on, begun = "", dict[str, str](), time.monotonic()
    while True:
        pods = list(api.select("pods", CLIENT_LABELS))
        found = public_keys(pods, count)
        missing = sorted(_expected(count) - found.keys())
        if found != handed_on and (not missing or time.monotonic() - begun >= patience_s):
            listed(found)
            handed_on = found
        if not missing:
            return
        waiting = "".join(f"\n  {name}: {why_not_there(name, pods)}" for name in missing)
        if waiting != said:
            print(f"waiting for the public keys of {len(missing)} of {count} clients:{waiting}", flush=True)
            said = waiting
        time.sleep(pause_s)


def why_not_there(name: str, pods: Iterable[Object]) -> str:
    """What keeps a client's pod from telling its key, in the cluster's words."""
    status = next((pod.get("status", {}) for pod in pods if pod["metadata"]["name"] == name), None)
    if status is None:
        return "there is no such pod yet"
    for condition in status.get("conditions", []):
        if condition.get("type") == "PodScheduled" and condition.get("status") == "False":
            return str(condition.get("message") or condition.get("reason") or "it is not scheduled")
    for container in status.get("initContainerStatuses", []):
        waiting = container.get("state", {}).get("waiting")
        if container["name"] == KEY_CONTAINER and waiting:
            return ": ".join(str(waiting[key]) for key in ("reason", "message") if waiting.get(key))
    return f"it is {str(status.get('phase', 'starting')).lower()}"


def _replicas(api: Api) -> int:
    """How many clients run in this cluster; the federation may have more of them elsewhere."""
    clients = api.get("statefulsets", CLIENTS)
    if clients is None:
        raise UserError(f"there is no StatefulSet {CLIENTS} in {api.namespace}: apply an overlay as a whole")
    return int(clients["spec"]["replicas"])


def _expected(count: int) -> set[str]:
    return {f"{CLIENTS}-{ordinal}" for ordinal in range(count)}


def _is_public_key(text: str) -> bool:
    return re.fullmatch(r"ecdsa-sha2-nistp384 [A-Za-z0-9+/=]{100,300}( [\w.-]+)?", text) is not None


def _contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def _metadata(name: str) -> Object:
    labels = {"app.kubernetes.io/name": "bouquet", "app.kubernetes.io/part-of": "bouquet"}
    return {"name": name, "labels": labels}


def _config(name: str, data: dict[str, str]) -> Object:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": _metadata(name), "data": data}
