"""Run pods from their rendered templates with Docker, field by field as the kubelet would.

What a template says is what runs: image, command, arguments, environment, volumes, user and groups, read-only
root, capabilities, memory limit, probes. Containers of one pod share a network namespace, which an
otherwise idle container holds. A field that this does not understand is an error, not left out.
"""

import base64
import math
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from kubernetes_support.objects import Object, field_value, find, named

KNOWN_POD_FIELDS = {
    "affinity",
    "automountServiceAccountToken",
    "containers",
    "enableServiceLinks",
    "initContainers",
    "restartPolicy",
    "securityContext",
    "serviceAccountName",
    "shareProcessNamespace",
    "terminationGracePeriodSeconds",
    "tolerations",
    "topologySpreadConstraints",
    "volumes",
}
KNOWN_CONTAINER_FIELDS = {
    "args",
    "command",
    "env",
    "envFrom",
    "image",
    "imagePullPolicy",
    "livenessProbe",
    "name",
    "ports",
    "readinessProbe",
    "resources",
    "securityContext",
    "startupProbe",
    "terminationMessagePath",
    "volumeMounts",
}
ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"


def docker(*arguments: str, check: bool = True, timeout: float = 300) -> str:
    """Standard output of a docker command; AssertionError with its message if it fails."""
    result = subprocess.run(["docker", *arguments], capture_output=True, text=True, timeout=timeout)
    if check and result.returncode:
        raise AssertionError(f"docker {' '.join(arguments)}: {result.stderr or result.stdout}")
    return result.stdout.strip()


@dataclass
class Host:
    """What pods of one test share: networks, a folder for volumes, and the objects in the cluster."""

    name: str
    folder: Path
    objects: list[Object]
    image: str
    """Any image with a shell and `sleep`, to hold namespaces and to act as root on volumes."""
    extra: Callable[[str, str], Object | None] = lambda kind, name: None
    """Objects made while the test runs: (kind, name) to what the cluster's API holds."""
    containers: list[str] = field(default_factory=list)

    def __enter__(self) -> "Host":
        for network in (self.name, self.server_network):
            docker("network", "create", "--internal", network)
        return self

    @property
    def server_network(self) -> str:
        """Where the SuperLink's pod is before its Service leads to it."""
        return f"{self.name}-server"

    def __exit__(self, *_: object) -> None:
        for container in reversed(self.containers):
            docker("rm", "--force", "--volumes", container, check=False)
        docker("network", "rm", self.name, self.server_network, check=False)
        self.as_root("find /volumes -mindepth 1 -delete")

    def as_root(self, script: str) -> None:
        """Run a script as root with the volumes at /volumes, as the kubelet acts on its host."""
        mount = f"type=bind,src={self.folder},dst=/volumes"
        docker("run", "--rm", "--user=0", "--network=none", "--mount", mount, "--entrypoint=sh", self.image,
               "-euc", script)  # fmt: skip

    def lookup(self, kind: str, name: str) -> Object | None:
        """An object by kind and name, rendered or made later."""
        rendered = [item for item in named(self.objects, kind) if item["metadata"]["name"] == name]
        return rendered[0] if rendered else self.extra(kind, name)


class Pod:
    """One pod of a workload."""

    def __init__(self, host: Host, template: Object, metadata: Object, claims: Sequence[str] = ()) -> None:
        self.host, self.metadata = host, metadata
        self.name = metadata["name"]
        self.spec = template["spec"]
        self._claims = claims
        self._folder = host.folder / self.name
        self._holder = f"{host.name}-{self.name}"
        assert self.spec.keys() <= KNOWN_POD_FIELDS, self.spec.keys() - KNOWN_POD_FIELDS

    def container_name(self, container: str) -> str:
        """Docker's name of one of the pod's containers."""
        return f"{self._holder}-{container}"

    def create(self, network: str) -> None:
        """Make the volumes and the network namespace."""
        self._network = network
        self._make_volumes()
        docker("run", "--detach", "--init", "--name", self._holder, "--network", network,
               *([] if network == "host" else ["--hostname", self.name]), "--entrypoint=sleep", self.host.image,
               "infinity")  # fmt: skip
        self.host.containers.append(self._holder)

    def run_init_containers(self, names: Sequence[str] = ()) -> None:
        """Run the init containers, or those of `names`, one after the other; each must succeed."""
        for container in self.spec.get("initContainers", []):
            if not names or container["name"] in names:
                self.start(container)
                status = docker("wait", self.container_name(container["name"]), timeout=600)
                assert status == "0", (
                    f"{self.name}/{container['name']} ended with {status}: {self.log(container['name'])}"
                )

    def start_containers(self) -> None:
        """Start the pod's containers."""
        for container in self.spec["containers"]:
            self.start(container)

    def start(self, container: Object) -> None:
        """Start one container as its template says."""
        assert container.keys() <= KNOWN_CONTAINER_FIELDS, container.keys() - KNOWN_CONTAINER_FIELDS
        name = self.container_name(container["name"])
        docker("rm", "--force", name, check=False)
        entrypoint, *command = [*container.get("command", []), *container.get("args", [])] or [""]
        if not container.get("command"):
            entrypoint, command = "", list(container.get("args", []))
        docker("run", "--detach", "--name", name, "--network", f"container:{self._holder}",
               *self._security(container), *self._resources(container), *self._mounts(container),
               *[f"--env={key}={value}" for key, value in self.environment(container).items()],
               *([f"--entrypoint={entrypoint}"] if entrypoint else []), container["image"], *command)  # fmt: skip
        self.host.containers.append(name)

    def stop(self) -> None:
        """End the pod's containers as a deleted pod's end: asked first, killed when the grace period is over."""
        grace = str(self.spec["terminationGracePeriodSeconds"])
        for container in self.spec["containers"]:
            docker("stop", "--time", grace, self.container_name(container["name"]))

    def environment(self, container: Object) -> dict[str, str]:
        """The container's environment with the downward API's values filled in."""
        values: dict[str, str] = {}
        for source in container.get("envFrom", []):
            config = self.host.lookup("ConfigMap", source["configMapRef"]["name"])
            assert config is not None, source
            values |= config["data"]
        for variable in container.get("env", []):
            if "value" in variable:
                values[variable["name"]] = variable["value"]
                continue
            source = variable["valueFrom"]
            if "fieldRef" in source:
                values[variable["name"]] = field_value(source["fieldRef"]["fieldPath"], self.metadata)
            else:
                reference = source["resourceFieldRef"]
                level, resource = reference["resource"].split(".")
                amount = container["resources"][level][resource]
                values[variable["name"]] = str(math.ceil(_quantity(amount)))  # the default divisor is 1
        if self.spec.get("automountServiceAccountToken"):
            values |= self._api_address
        return values

    _api_address: Mapping[str, str] = {}

    def give_account(self, account: Path, port: int) -> None:
        """Where the cluster's API is, and the token for it, as the kubelet and admission would add them."""
        self._account = account
        self._api_address = {"KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": str(port)}

    def wait_ready(self, timeout_s: float = 180) -> None:
        """Wait until every container's startup and readiness probes succeed."""
        deadline = time.monotonic() + timeout_s
        for container in self.spec["containers"]:
            for kind in ("startupProbe", "readinessProbe"):
                while kind in container and not self.probe(container, container[kind]):
                    state = self.state(container["name"])
                    assert state == "running", (
                        f"{self.name}/{container['name']} is {state}: {self.log(container['name'])}"
                    )
                    assert time.monotonic() < deadline, (
                        f"{self.name}/{container['name']}: {kind} fails: {self.log(container['name'])}"
                    )
                    time.sleep(1)

    def probe(self, container: Object, probe: Object) -> bool:
        """Do what the kubelet does: ask the pod's address from outside, or run a command inside."""
        if "exec" in probe:
            command = ["docker", "exec", self.container_name(container["name"]), *probe["exec"]["command"]]
            return subprocess.run(command, capture_output=True).returncode == 0
        with grpc.insecure_channel(f"{self.address()}:{probe['grpc']['port']}") as channel:
            try:
                answer = health_pb2_grpc.HealthStub(channel).Check(
                    health_pb2.HealthCheckRequest(service=probe["grpc"].get("service", "")),
                    timeout=probe.get("timeoutSeconds", 1),
                )
            except grpc.RpcError:
                return False
            return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)

    def address(self) -> str:
        """The pod's address."""
        return docker("inspect", "--format", f'{{{{(index .NetworkSettings.Networks "{self._network}").IPAddress}}}}',
                      self._holder)  # fmt: skip

    def serve_as(self, service: str) -> None:
        """Let the clients reach the pod under a Service's name: what happens once it is ready."""
        docker("network", "connect", "--alias", service, self.host.name, self._holder)

    def execute(self, container: str, *command: str) -> str:
        """Standard output of a command in a running container."""
        return docker("exec", self.container_name(container), *command)

    def log(self, container: str) -> str:
        """What a container has written."""
        command = ["docker", "logs", "--tail", "40", self.container_name(container)]
        result = subprocess.run(command, capture_output=True, text=True)
        return result.stdout + result.stderr

    def state(self, container: str) -> str:
        """running, exited, ..."""
        return docker("inspect", "--format", "{{.State.Status}}", self.container_name(container))

    def message(self, container: str) -> str:
        """The termination message of a container that has ended."""
        return (self._folder / f"{container}.termination-log").read_text()

    def _security(self, container: Object) -> list[str]:
        pod = self.spec["securityContext"]
        own = pod | container["securityContext"]
        assert own["seccompProfile"] == {"type": "RuntimeDefault"}  # Docker's default profile is just that
        flags = [f"--user={own['runAsUser']}:{own['runAsGroup']}", f"--group-add={pod['fsGroup']}"]
        flags += [f"--cap-drop={capability}" for capability in own["capabilities"]["drop"]]
        if own["readOnlyRootFilesystem"]:
            flags.append("--read-only")
        if own["allowPrivilegeEscalation"] is False:
            flags.append("--security-opt=no-new-privileges")
        if self.spec.get("shareProcessNamespace"):
            flags.append("--init")  # the pause process is the first of the pod and reaps
        return flags

    def _resources(self, container: Object) -> list[str]:
        return [f"--memory={int(_quantity(container['resources']['limits']['memory']))}"]

    def _mounts(self, container: Object) -> list[str]:
        path = container.get("terminationMessagePath", "/dev/termination-log")
        log = self._folder / f"{container['name']}.termination-log"
        mounts = [(str(log), path, False)]
        for mount in container.get("volumeMounts", []):
            source = self._folder / mount["name"]
            if claim := self._claim(mount["name"]):
                source = self.host.folder / claim
            if mount.get("subPath"):
                source = source / mount["subPath"]
            mounts.append((str(source), mount["mountPath"], mount.get("readOnly", False)))
        if self.spec.get("automountServiceAccountToken"):
            mounts.append((str(self._account), ACCOUNT, True))
        return [
            f"--mount=type=bind,src={source},dst={target}{',readonly' if read_only else ''}"
            for source, target, read_only in mounts
        ]

    def _claim(self, volume: str) -> str:
        if volume in self._claims:
            return f"{volume}-{self.name}"
        for entry in self.spec.get("volumes", []):
            if entry["name"] == volume and "persistentVolumeClaim" in entry:
                return str(entry["persistentVolumeClaim"]["claimName"])
        return ""

    def _make_volumes(self) -> None:
        """Fill the folders of this pod; owners and modes as the kubelet sets them with fsGroup."""
        group = self.spec["securityContext"]["fsGroup"]
        files: dict[str, tuple[str, int]] = {}
        folders = {claim for volume in self._claims if (claim := self._claim(volume))}
        read_only = set()
        for volume in self.spec.get("volumes", []):
            name = volume["name"]
            if "emptyDir" in volume:
                folders.add(f"{self.name}/{name}")
            elif claim := self._claim(name):
                folders.add(claim)
            else:
                read_only.add(f"{self.name}/{name}")
                for source in volume.get("projected", {}).get("sources", [volume]):
                    files |= self._projected(f"{self.name}/{name}", source)
        every = [*self.spec.get("initContainers", []), *self.spec["containers"]]
        logs = [f"{self.name}/{container['name']}.termination-log" for container in every]
        for container in every:
            for mount in container.get("volumeMounts", []):
                if claim := self._claim(mount["name"]):
                    folders.add(f"{claim}/{mount.get('subPath', '')}".rstrip("/"))
        lines = [f"cd /volumes && mkdir -p {' '.join(sorted({self.name, *folders, *read_only}))}"]
        lines += [f"touch {log} && chmod 0666 {log}" for log in logs]
        for folder in sorted(folders):
            lines.append(f"chgrp {group} {folder} && chmod 2775 {folder}")
        for path, (content, mode) in files.items():
            quoted = content.replace("'", "'\\''")
            lines.append(f"printf %s '{quoted}' >{path} && chmod {mode:o} {path} && chgrp {group} {path}")
        self.host.as_root("\n".join(lines))

    def _projected(self, folder: str, source: Object) -> dict[str, tuple[str, int]]:
        kind, reference = (
            ("ConfigMap", source["configMap"]) if "configMap" in source else ("Secret", source["secret"])
        )
        item = self.host.lookup(kind, reference.get("name") or reference["secretName"])
        if item is None:
            assert reference.get("optional"), f"{self.name} waits for {kind} {reference}"
            return {}
        data = item["data"]
        if kind == "Secret":
            data = {key: base64.b64decode(value).decode() for key, value in data.items()}
        items = reference.get("items") or [{"key": key, "path": key} for key in data]
        mode = int(reference.get("defaultMode", 0o644)) | 0o440  # fsGroup adds the group's right to read
        return {f"{folder}/{entry['path']}": (data[entry["key"]], mode) for entry in items}


def _quantity(text: str) -> float:
    """A Kubernetes quantity as a number: 500m, 1Gi, 2."""
    units = {"m": 1e-3, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30}
    for unit, factor in units.items():
        if text.endswith(unit):
            return float(text.removesuffix(unit)) * factor
    return float(text)


def pod_of(host: Host, kind: str, name: str, metadata: Object | None = None) -> Pod:
    """A pod of a rendered workload; `metadata` for one of a StatefulSet."""
    item = find(host.objects, kind, name)
    claims = [claim["metadata"]["name"] for claim in item["spec"].get("volumeClaimTemplates", [])]
    labels = item["spec"]["template"]["metadata"]["labels"]
    return Pod(
        host,
        item["spec"]["template"],
        metadata or {"name": name, "namespace": item["metadata"]["namespace"], "labels": labels},
        claims,
    )
