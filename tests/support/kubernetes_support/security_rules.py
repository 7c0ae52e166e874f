"""Who may do, read and reach what. Each rule takes all rendered objects and returns what is wrong."""

import re

from app.fleet.kubernetes import keys
from kubernetes_support.objects import (
    Object,
    containers,
    find,
    matches,
    named,
    plain_environment,
    pods,
    ports,
    references,
    select,
    title,
)

FLEET_PORT = 9092
WITH_TOKEN = {"bouquet-keys"}  # the Job alone asks the cluster's API
CLUSTER_WIDE = {"Namespace"}
# Pod Security Standards, profile `restricted`, "Volume Types".
VOLUME_TYPES = {
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "persistentVolumeClaim",
    "projected",
    "secret",
}


def restricted(objects: list[Object]) -> list[str]:
    """Pod Security Standards, profile `restricted`, field by field, and a read-only root.

    https://kubernetes.io/docs/concepts/security/pod-security-standards/
    """
    problems = []
    for owner, pod in pods(objects):
        context = pod.get("securityContext", {})
        for field in ("hostNetwork", "hostPID", "hostIPC"):
            if pod.get(field):
                problems.append(f"{owner}: {field}")
        if context.get("sysctls"):
            problems.append(f"{owner}: sysctls")
        if context.get("runAsUser") in (None, 0) or context.get("runAsGroup") in (None, 0):
            problems.append(f"{owner}: runs as root, or as whom the image says")
        for volume in pod.get("volumes", []):
            if forbidden := volume.keys() - VOLUME_TYPES - {"name"}:
                problems.append(f"{owner}: volume type {forbidden}")
        for name, container in containers(pod, owner):
            own = container.get("securityContext", {})
            both = context | own
            if own.get("privileged"):
                problems.append(f"{name}: privileged")
            if own.get("allowPrivilegeEscalation") is not False:
                problems.append(f"{name}: allowPrivilegeEscalation is not false")
            capabilities = own.get("capabilities", {})
            if capabilities.get("drop") != ["ALL"] or capabilities.get("add"):
                problems.append(f"{name}: capabilities {capabilities}")
            if both.get("runAsNonRoot") is not True or own.get("runAsUser", 1) == 0:
                problems.append(f"{name}: may run as root")
            if both.get("seccompProfile", {}).get("type") not in ("RuntimeDefault", "Localhost"):
                problems.append(f"{name}: seccompProfile")
            if own.get("procMount", "Default") != "Default":
                problems.append(f"{name}: procMount")
            if own.get("readOnlyRootFilesystem") is not True:
                problems.append(f"{name}: readOnlyRootFilesystem is not true")
            for level in (context, own):
                options = level.get("seLinuxOptions", {})
                kinds = ("", "container_t", "container_init_t", "container_kvm_t", "container_engine_t")
                if options.get("type", "") not in kinds or options.get("user") or options.get("role"):
                    problems.append(f"{name}: seLinuxOptions")
                if level.get("appArmorProfile", {}).get("type", "RuntimeDefault") == "Unconfined":
                    problems.append(f"{name}: appArmorProfile")
                if level.get("windowsOptions", {}).get("hostProcess"):
                    problems.append(f"{name}: hostProcess")
            for port in container.get("ports", []):
                if port.get("hostPort"):
                    problems.append(f"{name}: hostPort")
            for probe in ("livenessProbe", "readinessProbe", "startupProbe"):
                handler = container.get(probe, {})
                if any(handler.get(kind, {}).get("host") for kind in ("httpGet", "tcpSocket")):
                    problems.append(f"{name}: {probe} names a host")
    return problems


def namespaced(objects: list[Object]) -> list[str]:
    """Everything lives in one namespace, which enforces `restricted`."""
    problems = []
    spaces = [item for item in objects if item["kind"] == "Namespace"]
    if len(spaces) != 1:
        return [f"{len(spaces)} namespaces"]
    labels = spaces[0]["metadata"].get("labels", {})
    if labels.get("pod-security.kubernetes.io/enforce") != "restricted":
        problems.append("the namespace does not enforce restricted")
    for item in objects:
        name = item["metadata"].get("namespace")
        if item["kind"] not in CLUSTER_WIDE and name != spaces[0]["metadata"]["name"]:
            problems.append(f"{title(item)}: namespace {name}")
    return problems


def images_pinned(objects: list[Object]) -> list[str]:
    """Every image has a tag or digest, and none is `latest`."""
    problems = []
    for owner, pod in pods(objects):
        for name, container in containers(pod, owner):
            image = container.get("image", "")
            tag = re.search(r":([\w.-]+)$", image)
            if "@sha256:" not in image and (tag is None or tag[1] == "latest"):
                problems.append(f"{name}: image {image}")
    return problems


def no_plain_secrets(objects: list[Object]) -> list[str]:
    """No Secret with content, no private key and no password anywhere in the manifests."""
    problems = []
    for item in objects:
        if item["kind"] == "Secret" and (item.get("data") or item.get("stringData")):
            problems.append(f"{title(item)}: content in the manifest")
        if "PRIVATE KEY" in str(item):
            problems.append(f"{title(item)}: a private key")
    for owner, pod in pods(objects):
        for name, container in containers(pod, owner):
            for variable in container.get("env", []):
                secret = re.search(r"PASSWORD|TOKEN|SECRET|CREDENTIAL", variable["name"])
                if secret and "value" in variable:
                    problems.append(f"{name}: {variable['name']} in plain text")
    return problems


def keys_kept_apart(objects: list[Object]) -> list[str]:
    """The CA's key is mounted nowhere, the server's by the SuperLink only, a client's by that client."""
    problems = []
    for owner, pod in pods(objects):
        mounted = {name for kind, name in references(pod) if kind == "Secret"}
        allowed = {keys.SERVER_SECRET} if owner == "Deployment/bouquet-superlink" else set()
        if extra := mounted - allowed:
            problems.append(f"{owner}: sees the Secrets {sorted(extra)}")
        volumes = {volume["name"] for volume in pod.get("volumes", []) if "secret" in volume}
        for name, container in containers(pod, owner):
            mounts = {mount["name"] for mount in container.get("volumeMounts", [])}
            if mounts & volumes and container["name"] != "superlink":
                problems.append(f"{name}: mounts the server's key")
    for item in named(objects, "StatefulSet"):
        claims = {claim["metadata"]["name"] for claim in item["spec"].get("volumeClaimTemplates", [])}
        for name, container in containers(item["spec"]["template"]["spec"], title(item)):
            path = plain_environment(container).get("BOUQUET_NODE_KEY")
            if path and not any(
                mount["name"] in claims and path.startswith(mount["mountPath"] + "/")
                for mount in container.get("volumeMounts", [])
            ):
                problems.append(f"{name}: its key is not on the pod's own volume")
    return problems


def tokens_and_roles(objects: list[Object]) -> list[str]:
    """Only the Job has a token; nothing is granted across the cluster, by wildcard, or to change at will."""
    problems = []
    for item in objects:
        if item["kind"].startswith("ClusterRole"):
            problems.append(f"{title(item)}: cluster-wide")
        for rule in item.get("rules", []) if item["kind"] == "Role" else []:
            if "*" in [*rule["verbs"], *rule["resources"], *rule["apiGroups"]]:
                problems.append(f"{title(item)}: a wildcard")
            # RBAC cannot tie `create` and `list` to a name.
            free = set(rule["verbs"]) - {"create"} - ({"list"} if rule["resources"] == ["pods"] else set())
            if free and not rule.get("resourceNames"):
                problems.append(f"{title(item)}: {sorted(free)} on every one of {rule['resources']}")
    for owner, pod in pods(objects):
        token = pod.get("automountServiceAccountToken", True)
        if token != (pod.get("serviceAccountName") in WITH_TOKEN):
            problems.append(f"{owner}: automountServiceAccountToken {token}")
    return problems


def bindings(objects: list[Object]) -> list[str]:
    """A right goes to an account of the same namespace that is made here, whatever the namespace is called."""
    problems = []
    accounts = {
        (item["metadata"]["name"], item["metadata"].get("namespace"))
        for item in named(objects, "ServiceAccount")
    }
    for item in named(objects, "RoleBinding"):
        for subject in item["subjects"]:
            if (subject["name"], subject.get("namespace")) not in accounts or subject["namespace"] != item[
                "metadata"
            ].get("namespace"):
                problems.append(f"{title(item)}: it goes to {subject.get('namespace')}/{subject['name']}")
    return problems


def _is_told_the_address(objects: list[Object], clients: Object) -> bool:
    """Whether clients find the SuperLink without a name service."""
    service = find(objects, "Service", "bouquet-superlink")
    known = clients["spec"]["template"]["spec"].get("hostAliases")
    return bool(known == [{"ip": service["spec"].get("clusterIP"), "hostnames": ["bouquet-superlink"]}])


def network_policies(objects: list[Object]) -> list[str]:
    """Everything is denied first; every selector finds pods; clients reach 9092, and DNS unless it is closed."""
    problems = []
    policies = named(objects, "NetworkPolicy")
    if not any(
        policy["spec"]["podSelector"] == {}
        and set(policy["spec"].get("policyTypes", [])) == {"Ingress", "Egress"}
        and not policy["spec"].get("ingress")
        and not policy["spec"].get("egress")
        for policy in policies
    ):
        problems.append("nothing denies all")
    for policy in policies:
        spec = policy["spec"]
        chosen = select(objects, spec["podSelector"])
        if not chosen:
            problems.append(f"{title(policy)}: selects no pod")
        for rule in spec.get("ingress", []):
            if not rule.get("from") or not rule.get("ports"):
                problems.append(f"{title(policy)}: lets anyone in, or on any port")
            for port in rule.get("ports", []):
                if not all(port["port"] in ports(pod) for _, pod in chosen):
                    problems.append(f"{title(policy)}: no container listens on {port['port']}")
        for rule in [*spec.get("ingress", []), *spec.get("egress", [])]:
            for peer in [*rule.get("from", []), *rule.get("to", [])]:
                if "podSelector" in peer and "namespaceSelector" not in peer:
                    targets = select(objects, peer["podSelector"])
                    if not targets:
                        problems.append(f"{title(policy)}: a peer selects no pod")
                    if "to" in rule and not all(
                        port["port"] in ports(pod) for port in rule["ports"] for _, pod in targets
                    ):
                        problems.append(f"{title(policy)}: the peer does not listen there")
        for kind, direction in (("Ingress", "ingress"), ("Egress", "egress")):
            if spec.get(direction) and kind not in spec.get("policyTypes", []):
                problems.append(f"{title(policy)}: {direction} without effect")
    for item in named(objects, "StatefulSet"):
        labels = item["spec"]["template"]["metadata"]["labels"]
        hub = {"bouquet-hub"}
        out = [
            port["port"]
            for policy in policies
            if policy["metadata"]["name"] not in hub and matches(policy["spec"]["podSelector"], labels)
            for rule in policy["spec"].get("egress", [])
            for port in rule.get("ports", [{"port": "any"}])
        ]
        reached = sorted(set(map(str, out)))
        if reached != ["53", str(FLEET_PORT)] and not (
            reached == [str(FLEET_PORT)] and _is_told_the_address(objects, item)
        ):
            problems.append(f"{title(item)}: may reach {out}")
        if any(
            matches(policy["spec"]["podSelector"], labels) and policy["spec"].get("ingress")
            for policy in policies
        ):
            problems.append(f"{title(item)}: may be dialled")
    return problems


def certificates(objects: list[Object]) -> list[str]:
    """cert-manager's Certificate fills the Secret that is mounted, for the name that clients dial."""
    problems = []
    server = [
        item for item in named(objects, "Certificate") if item["spec"]["secretName"] == keys.SERVER_SECRET
    ]
    job = find(objects, "Job", "bouquet-keys")["spec"]["template"]["spec"]["containers"][0]
    own_ca = plain_environment(job).get("TLS_FROM") != "cert-manager"
    if own_ca == bool(server):
        problems.append("the Job and cert-manager both make the certificate, or neither")
    issuers = {item["metadata"]["name"] for item in named(objects, "Issuer")}
    for item in named(objects, "Certificate"):
        if item["spec"]["issuerRef"]["name"] not in issuers:
            problems.append(f"{title(item)}: no Issuer {item['spec']['issuerRef']['name']}")
    for item in server:
        if "bouquet-superlink" not in item["spec"].get("dnsNames", []):
            problems.append(f"{title(item)}: not for bouquet-superlink")
        if "127.0.0.1" not in item["spec"].get("ipAddresses", []):
            problems.append(f"{title(item)}: not for the Control API on loopback")
        if "server auth" not in item["spec"].get("usages", []):
            problems.append(f"{title(item)}: not for a server")
    return problems
