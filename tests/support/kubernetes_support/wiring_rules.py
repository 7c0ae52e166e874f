"""Whether the parts fit each other and the code. A rule takes all rendered objects, returns what is wrong."""

import ast
from functools import cache
from pathlib import Path

from app.environment import read
from app.errors import UserError
from app.fleet.deployment import SuperNodeSettings
from app.fleet.host.partition_ids import resolve
from app.fleet.kubernetes import keys
from kubernetes_support.objects import (
    Object,
    container,
    containers,
    field_value,
    named,
    plain_environment,
    pods,
    ports,
    references,
    replica_metadata,
    select,
    settings_of,
    title,
    workloads,
)

APP = Path(__file__).parents[3] / "app"
FLEET_PORT, METRICS_PORT = 9092, 9097
CONTROL_PORT = 8000
OF_THE_RUNTIME = {"NVIDIA_VISIBLE_DEVICES"}  # read by NVIDIA's container runtime
# Made by the Job (or by cert-manager), so not among the manifests.
MADE_LATER = {
    ("Secret", keys.SERVER_SECRET),
    ("ConfigMap", keys.CA_CONFIG),
    ("ConfigMap", keys.MEMBERS_CONFIG),
}


def labelled(objects: list[Object]) -> list[str]:
    """The recommended labels are on every pod template; every object says what it is part of."""
    problems = []
    for item in objects:
        if item["metadata"].get("labels", {}).get("app.kubernetes.io/part-of") != "bouquet":
            problems.append(f"{title(item)}: app.kubernetes.io/part-of")
    for item in workloads(objects):
        labels = item["spec"]["template"]["metadata"].get("labels", {})
        for label in ("name", "component", "part-of"):
            if not labels.get(f"app.kubernetes.io/{label}"):
                problems.append(f"{title(item)}: pods without app.kubernetes.io/{label}")
    return problems


# Health ports that only the container itself can ask.
ON_LOOPBACK = {"superlink": 9096, "supernode": 9095}


def probed(objects: list[Object]) -> list[str]:
    """Every container that stays is watched: by one of its ports or, where that is on loopback, from inside."""
    problems = []
    for item in workloads(objects):
        if item["kind"] == "Job":
            continue
        for entry in item["spec"]["template"]["spec"]["containers"]:
            name = f"{title(item)}/{entry['name']}"
            if not entry.get("livenessProbe"):
                problems.append(f"{name}: no livenessProbe")
            if port := ON_LOOPBACK.get(entry["name"]):
                for probe in ("livenessProbe", "readinessProbe", "startupProbe"):
                    command = entry.get(probe, {}).get("exec", {}).get("command", [])
                    if f"/dev/tcp/127.0.0.1/{port}" not in " ".join(command):
                        problems.append(f"{name}: {probe} does not ask its health port")
                continue
            if not entry.get("ports"):
                continue
            declared = {port.get("name"): port["containerPort"] for port in entry["ports"]}
            for probe in ("livenessProbe", "readinessProbe", "startupProbe"):
                handler = entry.get(probe, {})
                asked = handler.get("grpc") or handler.get("httpGet") or {}
                if asked.get("port") not in {*declared.values(), *declared}:
                    problems.append(f"{name}: {probe} asks none of its ports")
    return problems


def resources_set(objects: list[Object]) -> list[str]:
    """Every container requests cores and memory and has a memory limit; GPUs are limits, as they must be."""
    problems = []
    for owner, pod in pods(objects):
        for name, entry in containers(pod, owner):
            resources = entry.get("resources", {})
            requests, limits = resources.get("requests", {}), resources.get("limits", {})
            if not requests.get("cpu") or not requests.get("memory") or not limits.get("memory"):
                problems.append(f"{name}: resources {resources}")
        for volume in pod.get("volumes", []):
            if "emptyDir" in volume and not (volume["emptyDir"] or {}).get("sizeLimit"):
                problems.append(f"{owner}: emptyDir {volume['name']} without sizeLimit")
    return problems


def explained(objects: list[Object]) -> list[str]:
    """A Job that failed leaves its pods, and so its log, for as long as a person may need to look."""
    return [
        f"{title(item)}: restartPolicy {item['spec']['template']['spec'].get('restartPolicy')}, "
        f"gone after {item['spec'].get('ttlSecondsAfterFinished')} s"
        for item in named(objects, "Job")
        if item["spec"]["template"]["spec"].get("restartPolicy") != "Never"
        or item["spec"].get("ttlSecondsAfterFinished", 0) < 12 * 3600
    ]


def patient(objects: list[Object]) -> list[str]:
    """A client is not restarted because the SuperLink comes late: it listens only when it has reached it."""
    problems = []
    for item in named(objects, "StatefulSet"):
        probe = container(item["spec"]["template"]["spec"], "supernode").get("startupProbe", {})
        if probe.get("periodSeconds", 10) * probe.get("failureThreshold", 3) < 3600:
            problems.append(f"{title(item)}: it may take less than an hour to start")
    return problems


def one_registry(objects: list[Object]) -> list[str]:
    """Where images come from a registry, all do."""
    images = {entry["image"] for owner, pod in pods(objects) for _, entry in containers(pod, owner)}
    local = {image for image in images if "/" not in image}
    return (
        [f"{image}: not from the registry of the others" for image in sorted(local)] if images - local else []
    )


def writable(objects: list[Object]) -> list[str]:
    """With a read-only root every container has a /tmp, and mounts only volumes of its pod."""
    problems = []
    for item in workloads(objects):
        owner, pod = title(item), item["spec"]["template"]["spec"]
        volumes = {volume["name"] for volume in pod.get("volumes", [])}
        volumes |= {claim["metadata"]["name"] for claim in item["spec"].get("volumeClaimTemplates", [])}
        for name, entry in containers(pod, owner):
            mounts = entry.get("volumeMounts", [])
            if not any(mount["mountPath"] == "/tmp" and not mount.get("readOnly") for mount in mounts):
                problems.append(f"{name}: no /tmp")
            if unknown := {mount["name"] for mount in mounts} - volumes:
                problems.append(f"{name}: mounts {sorted(unknown)}, which its pod does not have")
    return problems


def services(objects: list[Object]) -> list[str]:
    """Service ports are container ports of the pods they select; the Control API is in no Service, and metrics stay in the cluster."""
    problems = []
    for service in named(objects, "Service"):
        spec = service["spec"]
        chosen = select(objects, {"matchLabels": spec["selector"]})
        if not chosen:
            problems.append(f"{title(service)}: selects no pod")
        if not spec.get("ports") and spec.get("clusterIP") != "None":
            problems.append(f"{title(service)}: no port")
        for port in spec.get("ports", []):
            target = port.get("targetPort", port["port"])
            for owner, pod in chosen:
                if target not in ports(pod):
                    problems.append(f"{title(service)}: {owner} has no port {target}")
            inside = (
                {FLEET_PORT, METRICS_PORT} if spec.get("type", "ClusterIP") == "ClusterIP" else {FLEET_PORT}
            )
            if any("superlink" in owner for owner, _ in chosen) and port["port"] not in inside:
                problems.append(f"{title(service)}: publishes {port['port']} of the SuperLink")
    for owner, pod in pods(objects):
        if CONTROL_PORT in ports(pod):
            problems.append(f"{owner}: the Control API's port is declared")
    for item in named(objects, "StatefulSet"):
        names = {
            service["metadata"]["name"]
            for service in named(objects, "Service")
            if service["spec"].get("clusterIP") == "None"
        }
        if item["spec"]["serviceName"] not in names:
            problems.append(f"{title(item)}: no headless Service {item['spec']['serviceName']}")
        for _, entry in containers(item["spec"]["template"]["spec"]):
            dialled = plain_environment(entry).get("SUPERLINK")
            host, _, number = (dialled or "").partition(":")
            known = {
                (service["metadata"]["name"], str(port["port"]))
                for service in named(objects, "Service")
                for port in service["spec"].get("ports", [])
            }
            if dialled and (host, number) not in known:
                problems.append(f"{title(item)}: SUPERLINK={dialled} is no Service")
    return problems


def partition_ids(objects: list[Object]) -> list[str]:
    """Every replica finds an id of its own, by the label and by its name; none is left without a client."""
    problems = []
    for item in named(objects, "StatefulSet"):
        replicas = item["spec"]["replicas"]
        settings = settings_of(objects)
        count = int(settings["NUM_CLIENTS"])
        outside = [
            name
            for config in named(objects, "ConfigMap")
            if config["metadata"]["name"] == "bouquet-members-external"
            for name in config["data"]
        ]
        if replicas + len(outside) != count:
            problems.append(f"{title(item)}: {replicas} + {len(outside)} clients, NUM_CLIENTS={count}")
        if item["spec"].get("podManagementPolicy") != "Parallel":
            problems.append(f"{title(item)}: pods start one after the other")
        client = container(item["spec"]["template"]["spec"], "supernode")
        fields = {
            variable["name"]: variable["valueFrom"]["fieldRef"]["fieldPath"]
            for variable in client["env"]
            if "fieldRef" in variable.get("valueFrom", {})
        }
        start = item["spec"].get("ordinals", {}).get("start", 0)
        # The label where Kubernetes sets it, the name where it does not.
        for known in (("POD_INDEX", "POD_NAME"), ("POD_NAME",)):
            found = []
            for ordinal in range(start, start + replicas):
                metadata = replica_metadata(item, ordinal)
                environment = settings | {
                    name: field_value(path, metadata) for name, path in fields.items() if name in known
                }
                try:
                    pod = read(SuperNodeSettings, {"insecure": True}, environment=environment)
                    found.append(resolve(count, pod.partition_id, pod.pod_index, pod.pod_name).id)
                except UserError as error:
                    problems.append(f"{title(item)}: {error}")
            if found != list(range(replicas)):
                problems.append(f"{title(item)}: from {known} come the ids {found}")
    return problems


def environment_known(objects: list[Object]) -> list[str]:
    """The code reads every variable that the manifests set, and everything in the settings."""
    names = set(settings_of(objects))
    for owner, pod in pods(objects):
        for _, entry in containers(pod, owner):
            names |= {variable["name"] for variable in entry.get("env", [])}
    return [f"{name}: read nowhere in app/" for name in sorted(names - _names_in_code() - OF_THE_RUNTIME)]


def references_exist(objects: list[Object]) -> list[str]:
    """What a pod names is rendered, made by the Job, or optional: ConfigMap, Secret, claim, account."""
    problems = []
    have = {(item["kind"], item["metadata"]["name"]) for item in objects} | MADE_LATER
    for owner, pod in pods(objects):
        for reference in sorted(references(pod) - have):
            problems.append(f"{owner}: {'/'.join(reference)} does not exist")
    for item in named(objects, "RoleBinding"):
        for kind, name in [
            (reference["kind"], reference["name"]) for reference in (item["roleRef"], *item["subjects"])
        ]:
            if (kind, name) not in have:
                problems.append(f"{title(item)}: {kind}/{name} does not exist")
    return problems


def selectors_fit(objects: list[Object]) -> list[str]:
    """Each workload selects its own pods and nobody else's; so does each PodDisruptionBudget."""
    problems = []
    for item in workloads(objects):
        if item["kind"] != "Job":
            chosen = [owner for owner, _ in select(objects, item["spec"]["selector"])]
            if chosen != [title(item)]:
                problems.append(f"{title(item)}: selects {chosen}")
    budgets = named(objects, "PodDisruptionBudget")
    if not any(
        [owner for owner, _ in select(objects, budget["spec"]["selector"])]
        == ["Deployment/bouquet-superlink"]
        for budget in budgets
    ):
        problems.append("no PodDisruptionBudget selects the SuperLink")
    return problems


def one_superlink(objects: list[Object]) -> list[str]:
    """One writer for the state: one replica, never two during an update."""
    for item in named(objects, "Deployment"):
        if item["metadata"]["name"] == "bouquet-superlink":
            if item["spec"].get("replicas") == 1 and item["spec"].get("strategy") == {"type": "Recreate"}:
                return []
            return [f"{title(item)}: {item['spec'].get('replicas')} replicas, {item['spec'].get('strategy')}"]
    return ["no SuperLink"]


@cache
def _names_in_code() -> frozenset[str]:
    """Every string in app/ that could be a variable's name; comments and prose do not count."""
    trees = [ast.parse(path.read_text()) for path in APP.rglob("*.py")]
    return frozenset(
        node.value
        for tree in trees
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    )
