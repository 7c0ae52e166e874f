"""Find one's way in rendered manifests."""

import re
from collections.abc import Iterator
from typing import Any

Object = dict[str, Any]


def title(item: Object) -> str:
    """Kind/name."""
    return f"{item['kind']}/{item['metadata']['name']}"


def named(objects: list[Object], kind: str) -> list[Object]:
    """All objects of one kind."""
    return [item for item in objects if item["kind"] == kind]


def find(objects: list[Object], kind: str, name: str) -> Object:
    """The one object of this kind and name."""
    return next(item for item in named(objects, kind) if item["metadata"]["name"] == name)


def workloads(objects: list[Object]) -> list[Object]:
    """Everything that makes pods."""
    return [item for item in objects if item["kind"] in ("Deployment", "StatefulSet", "DaemonSet", "Job")]


def pods(objects: list[Object]) -> Iterator[tuple[str, Object]]:
    """The pod specification of every workload, with the workload's title."""
    for item in workloads(objects):
        yield title(item), item["spec"]["template"]["spec"]


def containers(pod: Object, owner: str = "") -> Iterator[tuple[str, Object]]:
    """All containers of a pod, init containers first, with a name for messages."""
    for container in [*pod.get("initContainers", []), *pod["containers"]]:
        yield f"{owner}/{container['name']}", container


def container(pod: Object, name: str) -> Object:
    """One container of a pod."""
    return next(entry for _, entry in containers(pod) if entry["name"] == name)


def plain_environment(entry: Object) -> dict[str, str]:
    """The variables that a container gets as plain values."""
    return {variable["name"]: variable["value"] for variable in entry.get("env", []) if "value" in variable}


def settings_of(objects: list[Object]) -> dict[str, str]:
    """The ConfigMap made from settings.env."""
    for item in named(objects, "ConfigMap"):
        if item["metadata"]["name"].startswith("bouquet-settings"):
            return dict(item["data"])
    return {}


def field_value(path: str, metadata: Object) -> str:
    """What the downward API puts in for `fieldRef.fieldPath`."""
    if match := re.fullmatch(r"metadata\.labels\['(.+)'\]", path):
        return str(metadata.get("labels", {}).get(match[1], ""))
    if match := re.fullmatch(r"metadata\.(name|namespace)", path):
        return str(metadata[match[1]])
    raise ValueError(f"fieldPath {path}")


def replica_metadata(stateful_set: Object, ordinal: int) -> Object:
    """Name, namespace and labels of one pod of a StatefulSet, as Kubernetes 1.28 sets them."""
    name = f"{stateful_set['metadata']['name']}-{ordinal}"
    labels = dict(stateful_set["spec"]["template"]["metadata"]["labels"])
    labels |= {"apps.kubernetes.io/pod-index": str(ordinal), "statefulset.kubernetes.io/pod-name": name}
    return {"name": name, "namespace": stateful_set["metadata"]["namespace"], "labels": labels}


def references(pod: Object) -> set[tuple[str, str]]:
    """(kind, name) of what a pod cannot start without."""
    found = {("ServiceAccount", pod.get("serviceAccountName", "default"))}
    sources = list(pod.get("volumes", []))
    for volume in pod.get("volumes", []):
        sources += volume.get("projected", {}).get("sources", [])
    for source in sources:
        if claim := source.get("persistentVolumeClaim"):
            found.add(("PersistentVolumeClaim", claim["claimName"]))
        for kind, field in (("ConfigMap", "configMap"), ("Secret", "secret")):
            reference = source.get(field)
            if reference and not reference.get("optional"):
                found.add((kind, reference.get("name") or reference["secretName"]))
    for _, entry in containers(pod):
        for source in [
            *entry.get("envFrom", []),
            *(variable.get("valueFrom", {}) for variable in entry.get("env", [])),
        ]:
            for kind, fields in (
                ("ConfigMap", ("configMapRef", "configMapKeyRef")),
                ("Secret", ("secretRef", "secretKeyRef")),
            ):
                found |= {(kind, source[field]["name"]) for field in fields if field in source}
    return found


def matches(selector: Object, labels: Object) -> bool:
    """Whether a label selector chooses these labels."""
    for label, value in (selector.get("matchLabels") or {}).items():
        if labels.get(label) != value:
            return False
    for expression in selector.get("matchExpressions") or []:
        value, operator = labels.get(expression["key"]), expression["operator"]
        holds = {
            "In": value in expression.get("values", []),
            "NotIn": value not in expression.get("values", []),
            "Exists": value is not None,
            "DoesNotExist": value is None,
        }[operator]
        if not holds:
            return False
    return True


def select(objects: list[Object], selector: Object) -> list[tuple[str, Object]]:
    """The workloads whose pods a selector chooses."""
    return [
        (title(item), item["spec"]["template"]["spec"])
        for item in workloads(objects)
        if matches(selector, item["spec"]["template"]["metadata"]["labels"])
    ]


def ports(pod: Object) -> set[Any]:
    """Numbers and names of all ports that a pod's containers declare."""
    declared = [port for _, entry in containers(pod) for port in entry.get("ports", [])]
    return {port["containerPort"] for port in declared} | {port.get("name") for port in declared}
