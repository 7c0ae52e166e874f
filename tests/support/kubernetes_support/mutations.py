"""Wrong manifests, and the rule that must notice each. Every entry is a mistake that somebody could make."""

from collections.abc import Callable

from kubernetes_support import security_rules as security
from kubernetes_support import wiring_rules as wiring
from kubernetes_support.objects import Object, container, find

Change = Callable[[list[Object]], object]
Rule = Callable[[list[Object]], list[str]]

SECURITY: tuple[Rule, ...] = (
    security.restricted,
    security.namespaced,
    security.images_pinned,
    security.no_plain_secrets,
    security.keys_kept_apart,
    security.tokens_and_roles,
    security.bindings,
    security.network_policies,
    security.certificates,
)
WIRING: tuple[Rule, ...] = (
    wiring.labelled,
    wiring.probed,
    wiring.resources_set,
    wiring.explained,
    wiring.patient,
    wiring.one_registry,
    wiring.writable,
    wiring.services,
    wiring.partition_ids,
    wiring.environment_known,
    wiring.references_exist,
    wiring.selectors_fit,
    wiring.one_superlink,
)
RULES = (*SECURITY, *WIRING)


def _server(objects: list[Object]) -> Object:
    return find(objects, "Deployment", "bouquet-superlink")


def _server_pod(objects: list[Object]) -> Object:
    return _server(objects)["spec"]["template"]["spec"]


def _clients(objects: list[Object]) -> Object:
    return find(objects, "StatefulSet", "bouquet-supernode")


def _client_pod(objects: list[Object]) -> Object:
    return _clients(objects)["spec"]["template"]["spec"]


def _client(objects: list[Object]) -> Object:
    return container(_client_pod(objects), "supernode")


def _variable(entry: Object, name: str) -> Object:
    return next(variable for variable in entry["env"] if variable["name"] == name)


def _policy(objects: list[Object], name: str) -> Object:
    return find(objects, "NetworkPolicy", name)["spec"]


def _volume(pod: Object, name: str) -> Object:
    return next(volume for volume in pod["volumes"] if volume["name"] == name)


def _secret(name: str, data: dict[str, str]) -> Object:
    metadata = {"name": name, "namespace": "bouquet", "labels": {"app.kubernetes.io/part-of": "bouquet"}}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "data": data}


MUTATIONS: dict[str, tuple[Rule, Change]] = {
    # What a cluster of one's own decides, and what was wrong there.
    "rights of an account in another namespace": (
        security.bindings,
        lambda o: find(o, "RoleBinding", "bouquet-keys")["subjects"][0].update(namespace="elsewhere"),
    ),
    "rights of an account that is not there": (
        security.bindings,
        lambda o: find(o, "RoleBinding", "bouquet-keys")["subjects"][0].update(name="default"),
    ),
    "a failed Job takes its log with it": (
        wiring.explained,
        lambda o: find(o, "Job", "bouquet-keys")["spec"]["template"]["spec"].update(
            restartPolicy="OnFailure"
        ),
    ),
    "a failed Job is gone before anybody looks": (
        wiring.explained,
        lambda o: find(o, "Job", "bouquet-keys")["spec"].update(ttlSecondsAfterFinished=300),
    ),
    "a late SuperLink restarts every client": (
        wiring.patient,
        lambda o: _client(o)["startupProbe"].update(failureThreshold=60),
    ),
    "the registry comes before what it must rename": (
        wiring.one_registry,
        lambda o: _client(o).update(image="registry.example.com/bouquet/bouquet-supernode:0.1.0"),
    ),
    # The restricted profile, field by field.
    "host network": (security.restricted, lambda o: _client_pod(o).update(hostNetwork=True)),
    "host processes": (security.restricted, lambda o: _client_pod(o).update(hostPID=True)),
    "host IPC": (security.restricted, lambda o: _client_pod(o).update(hostIPC=True)),
    "sysctl": (
        security.restricted,
        lambda o: _client_pod(o)["securityContext"].update(
            sysctls=[{"name": "kernel.shm_rmid_forced", "value": "0"}]
        ),
    ),
    "host path": (
        security.restricted,
        lambda o: _client_pod(o)["volumes"].append({"name": "h", "hostPath": {"path": "/"}}),
    ),
    "privileged": (security.restricted, lambda o: _client(o)["securityContext"].update(privileged=True)),
    "privilege escalation": (
        security.restricted,
        lambda o: _client(o)["securityContext"].pop("allowPrivilegeEscalation"),
    ),
    "capabilities kept": (security.restricted, lambda o: _client(o)["securityContext"].pop("capabilities")),
    "capability added": (
        security.restricted,
        lambda o: _client(o)["securityContext"]["capabilities"].update(add=["NET_ADMIN"]),
    ),
    "root by number": (security.restricted, lambda o: _client_pod(o)["securityContext"].update(runAsUser=0)),
    "root in one container": (
        security.restricted,
        lambda o: _client(o)["securityContext"].update(runAsUser=0),
    ),
    "root allowed": (security.restricted, lambda o: _client(o)["securityContext"].update(runAsNonRoot=False)),
    "no seccomp": (
        security.restricted,
        lambda o: _client(o)["securityContext"].update(seccompProfile={"type": "Unconfined"}),
    ),
    "unmasked proc": (
        security.restricted,
        lambda o: _client(o)["securityContext"].update(procMount="Unmasked"),
    ),
    "SELinux user": (
        security.restricted,
        lambda o: _client(o)["securityContext"].update(seLinuxOptions={"user": "system_u"}),
    ),
    "no AppArmor": (
        security.restricted,
        lambda o: _client(o)["securityContext"].update(appArmorProfile={"type": "Unconfined"}),
    ),
    "host port": (
        security.restricted,
        lambda o: container(_server_pod(o), "superlink")["ports"][0].update(hostPort=9092),
    ),
    "writable root": (
        security.restricted,
        lambda o: _client(o)["securityContext"].update(readOnlyRootFilesystem=False),
    ),
    "init container unrestricted": (
        security.restricted,
        lambda o: _client_pod(o)["initContainers"][0].pop("securityContext"),
    ),
    # Namespace, images, secrets, rights.
    "namespace not restricted": (
        security.namespaced,
        lambda o: find(o, "Namespace", "bouquet")["metadata"]["labels"].update(
            {"pod-security.kubernetes.io/enforce": "baseline"}
        ),
    ),
    "another namespace": (security.namespaced, lambda o: _server(o)["metadata"].update(namespace="default")),
    "image latest": (security.images_pinned, lambda o: _client(o).update(image="bouquet-supernode:latest")),
    "image without tag": (
        security.images_pinned,
        lambda o: _client(o).update(image="registry.example.com:5000/bouquet-supernode"),
    ),
    "plain Secret": (security.no_plain_secrets, lambda o: o.append(_secret("x", {"password": "cGFzcw=="}))),
    "private key in a ConfigMap": (
        security.no_plain_secrets,
        lambda o: next(i for i in o if i["kind"] == "ConfigMap")["data"].update(
            key="-----BEGIN OPENSSH PRIVATE KEY-----"
        ),
    ),
    "password in the environment": (
        security.no_plain_secrets,
        lambda o: _client(o)["env"].append({"name": "HUB_TOKEN", "value": "hf_x"}),
    ),
    "client sees a Secret": (
        security.keys_kept_apart,
        lambda o: _client_pod(o)["volumes"].append(
            {"name": "s", "secret": {"secretName": "bouquet-server-tls"}}
        ),
    ),
    "CA key in the SuperLink": (
        security.keys_kept_apart,
        lambda o: _server_pod(o)["volumes"].append({"name": "s", "secret": {"secretName": "bouquet-ca"}}),
    ),
    "server key beside the run": (
        security.keys_kept_apart,
        lambda o: container(_server_pod(o), "train")["volumeMounts"].append(
            {"name": "server-tls", "mountPath": "/pki"}
        ),
    ),
    "client key in a scratch volume": (
        security.keys_kept_apart,
        lambda o: _variable(_client(o), "BOUQUET_NODE_KEY").update(value="/tmp/node.key"),
    ),
    "role over all Secrets": (
        security.tokens_and_roles,
        lambda o: find(o, "Role", "bouquet-keys")["rules"][1].pop("resourceNames"),
    ),
    "role with a wildcard": (
        security.tokens_and_roles,
        lambda o: find(o, "Role", "bouquet-keys")["rules"][0].update(verbs=["*"]),
    ),
    "cluster role": (
        security.tokens_and_roles,
        lambda o: find(o, "Role", "bouquet-keys").update(kind="ClusterRole"),
    ),
    "token in a client": (
        security.tokens_and_roles,
        lambda o: _client_pod(o).pop("automountServiceAccountToken"),
    ),
    # Network.
    "nothing denied": (
        security.network_policies,
        lambda o: o.remove(find(o, "NetworkPolicy", "bouquet-deny-all")),
    ),
    "policy for nobody": (
        security.network_policies,
        lambda o: _policy(o, "bouquet-superlink")["podSelector"]["matchLabels"].update(
            {"app.kubernetes.io/component": "server"}
        ),
    ),
    "policy lets nobody in": (
        security.network_policies,
        lambda o: _policy(o, "bouquet-superlink")["ingress"][0]["from"][0]["podSelector"][
            "matchLabels"
        ].update({"app.kubernetes.io/component": "client"}),
    ),
    "policy lets anyone in": (
        security.network_policies,
        lambda o: _policy(o, "bouquet-superlink")["ingress"][0].pop("from"),
    ),
    "policy for another port": (
        security.network_policies,
        lambda o: _policy(o, "bouquet-superlink")["ingress"][0]["ports"][0].update(port=9093),
    ),
    "clients reach the internet": (
        security.network_policies,
        lambda o: _policy(o, "bouquet-supernode")["egress"].append(
            {"ports": [{"port": 443, "protocol": "TCP"}]}
        ),
    ),
    "clients reach everything": (
        security.network_policies,
        lambda o: _policy(o, "bouquet-supernode")["egress"].append({}),
    ),
    "clients may be dialled": (
        security.network_policies,
        lambda o: _policy(o, "bouquet-supernode").update(
            policyTypes=["Egress", "Ingress"],
            ingress=[{"from": [{"podSelector": {}}], "ports": [{"port": 9095, "protocol": "TCP"}]}],
        ),
    ),
    "egress without effect": (
        security.network_policies,
        lambda o: _policy(o, "bouquet-supernode").update(policyTypes=["Ingress"]),
    ),
    "nobody makes the certificate": (
        security.certificates,
        lambda o: find(o, "Job", "bouquet-keys")["spec"]["template"]["spec"]["containers"][0].update(
            env=[{"name": "TLS_FROM", "value": "cert-manager"}]
        ),
    ),
    # Wiring.
    "no label": (
        wiring.labelled,
        lambda o: _server(o)["metadata"]["labels"].pop("app.kubernetes.io/part-of"),
    ),
    "no probe": (wiring.probed, lambda o: _client(o).pop("livenessProbe")),
    "probe of another port": (
        wiring.probed,
        lambda o: _client(o)["readinessProbe"].update(
            exec={"command": ["bash", "-c", "</dev/tcp/127.0.0.1/9094"]}
        ),
    ),
    "probe by TCP": (wiring.probed, lambda o: _client(o).update(startupProbe={"tcpSocket": {"port": 9095}})),
    "no requests": (wiring.resources_set, lambda o: _client(o)["resources"].pop("requests")),
    "no memory limit": (wiring.resources_set, lambda o: _client(o)["resources"]["limits"].pop("memory")),
    "unbounded scratch": (
        wiring.resources_set,
        lambda o: _volume(_client_pod(o), "tmp").update(emptyDir={}),
    ),
    "no /tmp": (
        wiring.writable,
        lambda o: _client(o).update(
            volumeMounts=[m for m in _client(o)["volumeMounts"] if m["name"] != "tmp"]
        ),
    ),
    "mount without volume": (
        wiring.writable,
        lambda o: _client(o)["volumeMounts"].append({"name": "gone", "mountPath": "/gone"}),
    ),
    "service for nobody": (
        wiring.services,
        lambda o: find(o, "Service", "bouquet-superlink")["spec"]["selector"].update(
            {"app.kubernetes.io/component": "server"}
        ),
    ),
    "service to no port": (
        wiring.services,
        lambda o: find(o, "Service", "bouquet-superlink")["spec"]["ports"][0].update(targetPort="grpc"),
    ),
    "service publishes health": (
        wiring.services,
        lambda o: find(o, "Service", "bouquet-superlink")["spec"]["ports"].append(
            {"port": 9096, "name": "h"}
        ),
    ),
    "service publishes metrics to others": (
        wiring.services,
        lambda o: find(o, "Service", "bouquet-superlink")["spec"].update(
            type="LoadBalancer",
            ports=[{"port": 9097, "targetPort": "fleet", "name": "m"}],
        ),
    ),
    "Control API declared": (
        wiring.services,
        lambda o: container(_server_pod(o), "superlink")["ports"].append({"containerPort": 8000}),
    ),
    "SuperLink under another name": (
        wiring.services,
        lambda o: _variable(_client(o), "SUPERLINK").update(value="superlink:9092"),
    ),
    "no headless service": (wiring.services, lambda o: _clients(o)["spec"].update(serviceName="clients")),
    "replicas apart from NUM_CLIENTS": (
        wiring.partition_ids,
        lambda o: _clients(o)["spec"].update(replicas=11),
    ),
    "ordinals from 1": (wiring.partition_ids, lambda o: _clients(o)["spec"].update(ordinals={"start": 1})),
    "index from the wrong label": (
        wiring.partition_ids,
        lambda o: _variable(_client(o), "POD_INDEX")["valueFrom"]["fieldRef"].update(
            fieldPath="metadata.labels['app.kubernetes.io/component']"
        ),
    ),
    "no fallback for the index": (
        wiring.partition_ids,
        lambda o: _client(o)["env"].remove(_variable(_client(o), "POD_NAME")),
    ),
    "one pod after the other": (
        wiring.partition_ids,
        lambda o: _clients(o)["spec"].pop("podManagementPolicy"),
    ),
    "unknown variable": (
        wiring.environment_known,
        lambda o: _client(o)["env"].append({"name": "NUM_CLIENT", "value": "10"}),
    ),
    "unknown setting": (
        wiring.environment_known,
        lambda o: next(i for i in o if i["kind"] == "ConfigMap" and "RUN" in i["data"])["data"].update(
            EPOCHS="1"
        ),
    ),
    "settings under another name": (
        wiring.references_exist,
        lambda o: _client(o)["envFrom"][0]["configMapRef"].update(name="settings"),
    ),
    "Secret that nobody makes": (
        wiring.references_exist,
        lambda o: _volume(_server_pod(o), "server-tls")["secret"].update(secretName="server-tls"),
    ),
    "claim that nobody makes": (
        wiring.references_exist,
        lambda o: _volume(_server_pod(o), "bouquet")["persistentVolumeClaim"].update(claimName="data"),
    ),
    "selector of other pods": (
        wiring.selectors_fit,
        lambda o: _server(o)["spec"]["selector"]["matchLabels"].pop("app.kubernetes.io/component"),
    ),
    "no disruption budget": (
        wiring.selectors_fit,
        lambda o: o.remove(find(o, "PodDisruptionBudget", "bouquet-superlink")),
    ),
    "two SuperLinks": (wiring.one_superlink, lambda o: _server(o)["spec"].update(replicas=2)),
    "rolling SuperLink": (wiring.one_superlink, lambda o: _server(o)["spec"].pop("strategy")),
}

# What the published schemas must refuse.
SCHEMA_MUTATIONS: dict[str, Change] = {
    "misspelt field": lambda o: _client(o).update(imagePolicy="IfNotPresent"),
    "string for a number": lambda o: _clients(o)["spec"].update(replicas="10"),
    "unquoted value": lambda o: _variable(_client(o), "SUPERLINK").update(value=9092),
    "no selector": lambda o: _server(o)["spec"].pop("selector"),
    "probe without port": lambda o: _client(o).update(livenessProbe={"grpc": {}}),
    "removed API version": lambda o: find(o, "PodDisruptionBudget", "bouquet-superlink").update(
        apiVersion="policy/v1beta1"
    ),
    "misspelt policy": lambda o: _policy(o, "bouquet-supernode").update(egres=[]),
}
