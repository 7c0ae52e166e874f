"""A stand-in for the cluster's API: HTTPS, a bearer token, and the rights that the rendered Role gives."""

import datetime
import http.server
import ipaddress
import json
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from kubernetes_support.objects import Object, find

ADDRESS = "127.0.0.1"
NAMESPACE = "bouquet"
VERBS = {"GET": "get", "POST": "create", "PUT": "update"}


class FakeCluster:
    """Stored objects by (kind, name), and what was asked and refused."""

    def __init__(self, rules: list[Object], pods: Callable[[], list[Object]]) -> None:
        self.rules = rules
        self.pods = pods
        self.objects: dict[tuple[str, str], Object] = {}
        self.asked: list[str] = []
        self.refused: list[str] = []
        self.token = "token-of-the-job"

    def allowed(self, group: str, resource: str, verb: str, name: str) -> bool:
        """What RBAC would say to the rules of the rendered Role."""
        return any(
            group in rule["apiGroups"]
            and resource in rule["resources"]
            and verb in rule["verbs"]
            and (not rule.get("resourceNames") or name in rule["resourceNames"])
            for rule in self.rules
        )

    def answer(self, method: str, path: str, body: Object | None) -> tuple[int, Object]:
        """Status and object for one request."""
        parts = urlsplit(path).path.strip("/").split("/")
        group = "" if parts[0] == "api" else parts[1]
        assert parts[:2] == ["api", "v1"] or parts[:3] == ["apis", "apps", "v1"], path
        tail = parts[2:] if parts[0] == "api" else parts[3:]
        assert tail[:2] == ["namespaces", NAMESPACE], path
        resource, name = tail[2], (tail[3] if len(tail) > 3 else "")
        verb = VERBS[method] if name or method != "GET" else "list"
        self.asked.append(f"{verb} {resource} {name}".strip())
        if not self.allowed(group, resource, verb, name):
            self.refused.append(self.asked[-1])
            return 403, {"kind": "Status", "reason": "Forbidden"}
        if verb == "list":
            selector = parse_qs(urlsplit(path).query)["labelSelector"][0]
            wanted = dict(pair.split("=") for pair in selector.split(","))
            chosen = [pod for pod in self.pods() if wanted.items() <= pod["metadata"]["labels"].items()]
            return 200, {"items": chosen}
        if verb == "create":
            assert body is not None
            key = (resource, body["metadata"]["name"])
            if key in self.objects:
                return 409, {"kind": "Status", "reason": "AlreadyExists"}
            self.objects[key] = body
            return 201, body
        if (resource, name) not in self.objects:
            return 404, {"kind": "Status", "reason": "NotFound"}
        if verb == "update":
            assert body is not None
            self.objects[resource, name] = body
        return 200, self.objects[resource, name]


@contextmanager
def serve(cluster: FakeCluster, account: Path) -> Iterator[int]:
    """Serve `cluster` over TLS; fill `account` as a pod's service account folder; yield the port."""
    account.mkdir(parents=True, exist_ok=True)
    certificate, key = _certificate()
    (account / "ca.crt").write_bytes(certificate)
    (account / "namespace").write_text(NAMESPACE)
    (account / "token").write_text(cluster.token)
    both = account.parent / "api-server.pem"
    both.write_bytes(certificate + key)

    class Handler(http.server.BaseHTTPRequestHandler):
        def _handle(self) -> None:
            length = int(self.headers.get("Content-Length", 0))
            body = json.loads(self.rfile.read(length)) if length else None
            if self.headers.get("Authorization") != f"Bearer {cluster.token}":
                status, answer = 401, {"kind": "Status", "reason": "Unauthorized"}
            else:
                status, answer = cluster.answer(self.command, self.path, body)
            content = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_PUT = _handle

        def log_message(self, format: str, *arguments: Any) -> None:
            """Stay quiet."""

    server = http.server.ThreadingHTTPServer((ADDRESS, 0), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(both)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def stateful_set(objects: list[Object], replicas: int) -> Object:
    """The clients' StatefulSet as the API would return it."""
    item = find(objects, "StatefulSet", "bouquet-supernode")
    return {**item, "spec": {**item["spec"], "replicas": replicas}}


def client_pod(name: str, message: str | None) -> Object:
    """A client's pod as the API lists it; `message` is what its init container left."""
    labels = {"app.kubernetes.io/name": "bouquet", "app.kubernetes.io/component": "supernode"}
    state = {"waiting": {}} if message is None else {"terminated": {"exitCode": 0, "message": message}}
    return {
        "metadata": {"name": name, "labels": labels},
        "status": {"initContainerStatuses": [{"name": "node-key", "state": state}]},
    }


def _certificate() -> tuple[bytes, bytes]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "fake API")])
    now = datetime.datetime.now(datetime.UTC)
    address = x509.IPAddress(ipaddress.ip_address(ADDRESS))
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return certificate.public_bytes(serialization.Encoding.PEM), private
