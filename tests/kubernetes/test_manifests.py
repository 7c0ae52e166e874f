"""Every overlay and useful combination renders to what Kubernetes accepts and our own rules hold for."""

import copy
import os
import re
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

import kubernetes_validate
import pytest
import yaml
from kubernetes_support import security_rules
from kubernetes_support.mutations import MUTATIONS, RULES, SCHEMA_MUTATIONS, Change, Rule
from kubernetes_support.objects import (
    Object,
    container,
    containers,
    find,
    named,
    plain_environment,
    pods,
    settings_of,
    title,
)
from kubernetes_support.render import COMBINATIONS, K8S, combination, kustomize, overlay

OLDEST = "1.28"
NEWEST = kubernetes_validate.latest_version()

# Kinds of cert-manager, of which the Kubernetes schemas know nothing; rule `certificates` looks at them.
FOREIGN = "cert-manager.io/v1"


def _against_schema(objects: Iterable[Object], version: str) -> list[str]:
    problems = []
    for item in objects:
        if item["apiVersion"] != FOREIGN:
            try:
                kubernetes_validate.validate(item, version, strict=True)
            except (kubernetes_validate.ValidationError, kubernetes_validate.SchemaNotFoundError) as error:
                problems.append(f"{title(item)}: {getattr(error, 'message', error)}")
    return problems


@pytest.mark.parametrize("version", [OLDEST, NEWEST])
@pytest.mark.parametrize("name", COMBINATIONS)
def test_renders_to_what_the_published_schemas_allow(name: str, version: str) -> None:
    assert _against_schema(combination(name), version) == []


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
@pytest.mark.parametrize("name", COMBINATIONS)
def test_holds_our_own_rules(name: str, rule: Rule) -> None:
    assert rule(combination(name)) == []


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_a_wrong_manifest_is_noticed(mutation: str) -> None:
    rule, change = MUTATIONS[mutation]
    objects = copy.deepcopy(combination("cpu"))
    change(objects)
    assert rule(objects) != []


@pytest.mark.parametrize("version", [OLDEST, NEWEST])
@pytest.mark.parametrize("change", SCHEMA_MUTATIONS.values(), ids=SCHEMA_MUTATIONS)
def test_a_manifest_against_the_schema_is_noticed(change: Change, version: str) -> None:
    objects = copy.deepcopy(combination("cpu"))
    change(objects)
    assert _against_schema(objects, version) != []


def test_every_rule_has_a_mutation() -> None:
    assert {rule for rule, _ in MUTATIONS.values()} == set(RULES)


def test_every_component_and_overlay_is_rendered() -> None:
    rendered = {component for _, components in COMBINATIONS.values() for component in components}
    for base, _ in COMBINATIONS.values():
        shipped = yaml.safe_load((K8S / "overlays" / base / "kustomization.yaml").read_text())
        rendered |= {Path(component).name for component in shipped.get("components") or []}
    assert rendered == {folder.name for folder in (K8S / "components").iterdir()}
    assert {base for base, _ in COMBINATIONS.values()} == {
        folder.name for folder in (K8S / "overlays").iterdir()
    }


def test_one_value_sets_clients_partitions_and_replicas() -> None:
    objects = overlay("cpu", settings={"NUM_CLIENTS": "3"})
    assert find(objects, "StatefulSet", "bouquet-supernode")["spec"]["replicas"] == 3
    assert settings_of(objects)["NUM_CLIENTS"] == "3"
    assert [problem for rule in RULES for problem in rule(objects)] == []


@pytest.mark.parametrize("components", [(), ("cert-manager", "tensorboard", "monitoring", "registry")])
def test_another_namespace_is_one_word(components: tuple[str, ...]) -> None:
    """As the README says: all objects and rights are in it, and nothing is left in `bouquet`."""
    objects = overlay("cpu", components, namespace="hospital")
    assert find(objects, "Namespace", "hospital")
    assert {item["metadata"].get("namespace", "hospital") for item in objects} <= {"hospital", "monitoring"}
    assert security_rules.bindings(objects) == []
    (subject,) = find(objects, "RoleBinding", "bouquet-keys")["subjects"]
    assert subject["namespace"] == "hospital"


_UNITS = {"m": 1 / 1000, "Mi": 1 / 1024, "Gi": 1.0, "": 1.0}


def _amount(text: str) -> float:
    """Cores, or GiB."""
    number, unit = re.fullmatch(r"([\d.]+)(\w*)", str(text)).groups()  # type: ignore[union-attr]
    return float(number) * _UNITS[unit]


def _requested(pod: Object, resource: str) -> float:
    """As the scheduler counts: init containers run before the others, one after another."""
    first, then = (
        [_amount(entry["resources"]["requests"][resource]) for entry in pod.get(kind, [])]
        for kind in ("initContainers", "containers")
    )
    return max([*first, sum(then)])


def test_the_readme_says_what_a_cluster_must_have() -> None:
    objects = combination("cpu")
    text = (K8S / "README.md").read_text()
    for row, kind, name in (
        ("SuperLink", "Deployment", "bouquet-superlink"),
        ("each client", "StatefulSet", "bouquet-supernode"),
        ("Job, for a minute", "Job", "bouquet-keys"),
    ):
        pod = find(objects, kind, name)["spec"]["template"]["spec"]
        cells = re.search(rf"^\| {row} \| ([\d.]+) \| ([\d.]+) GiB \|", text, re.M)
        assert cells is not None, row
        found = _requested(pod, "cpu"), _requested(pod, "memory")
        assert tuple(map(float, cells.groups())) == pytest.approx(found, abs=0.01), row
    claims = [
        claim["spec"]
        for claim in find(objects, "StatefulSet", "bouquet-supernode")["spec"]["volumeClaimTemplates"]
    ]
    (size,) = re.findall(r"^\| each client \| .* \| ([\d.]+) GiB \|$", text, re.M)
    assert float(size) == sum(_amount(claim["resources"]["requests"]["storage"]) for claim in claims)


def _objects_of(base: str, *components: str) -> set[str]:
    rendered = overlay(base, components)
    names = {f"{item['kind'].lower()}/{item['metadata']['name']}" for item in rendered}
    return {name for name in names if not name.startswith("configmap/bouquet-settings-")}


@pytest.mark.parametrize("component", sorted(folder.name for folder in (K8S / "components").iterdir()))
def test_the_readme_deletes_what_a_component_leaves_when_it_goes(component: str) -> None:
    """`hub-egress` would leave a way out open."""
    base = "gpu" if component in {"gpu", "runtime-class", "time-slicing"} else "cpu"
    added = _objects_of(base, component) - _objects_of(base) if component != "gpu" else set()
    text = (K8S / "README.md").read_text()
    row = re.search(rf"^\| `{component}` \| `kubectl delete ([^`]*)` \|$", text, re.M)
    assert added == set(row[1].split() if row else [])


def test_the_readme_finds_the_settings_that_are_in_use(tmp_path: Path) -> None:
    """With a stand-in for kubectl that has three ConfigMaps and remembers what it is told to delete."""
    (block,) = re.findall(r"```sh\n(used=.*?)```", (K8S / "README.md").read_text(), re.DOTALL)
    objects = combination("cpu")
    pod = find(objects, "StatefulSet", "bouquet-supernode")["spec"]["template"]["spec"]
    used = pod["containers"][0]["envFrom"][0]["configMapRef"]["name"]
    kubectl = tmp_path / "kubectl"
    kubectl.write_text(
        f"""#!/bin/sh
case "$*" in
*statefulset*) printf {used} ;;
"get configmap"*) printf 'configmap/bouquet-ca\\nconfigmap/{used}\\nconfigmap/bouquet-settings-old\\n' ;;
delete*) echo "$*" >>{tmp_path}/deleted ;;
esac
"""
    )
    kubectl.chmod(0o755)
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    subprocess.run(["sh", "-euc", block], env={**os.environ, "PATH": path}, check=True, timeout=30)
    assert (tmp_path / "deleted").read_text() == "delete configmap/bouquet-settings-old\n"


@pytest.mark.parametrize("name", ["cpu", "gpu"])
def test_the_options_of_an_overlay_work_when_uncommented(name: str, tmp_path: Path) -> None:
    for folder in (K8S, K8S.parent / "monitoring"):
        shutil.copytree(folder, tmp_path / folder.name)
    file = tmp_path / "k8s" / "overlays" / name / "kustomization.yaml"
    text, count = re.subn(r"^#(  - \.\./\.\./components/)", r"\1", file.read_text(), flags=re.MULTILINE)
    assert count >= 5
    file.write_text(text)
    objects = kustomize(file.parent)
    assert [problem for rule in RULES for problem in rule(objects)] == []
    assert any("registry.example.com" in str(item) for item in objects)


def test_the_readmes_overlay_works(tmp_path: Path) -> None:
    (block,) = re.findall(r"```yaml\n(.*?)```", (K8S / "README.md").read_text(), flags=re.DOTALL)
    (address,) = re.findall(r"https://\S+//deploy/k8s/overlays/gpu\?ref=[^\]]+", block)
    here = os.path.relpath(K8S.resolve() / "overlays/gpu", tmp_path.resolve())
    (tmp_path / "kustomization.yaml").write_text(block.replace(address, here))
    objects = kustomize(tmp_path)
    assert find(objects, "StatefulSet", "bouquet-supernode")["spec"]["replicas"] == 20
    assert [problem for rule in RULES for problem in rule(objects)] == []


def test_images_with_another_app_are_a_tag_and_two_settings() -> None:
    """As the README says; what is run is in the images, so no pod mounts it or names it."""
    tags = {"bouquet-superlink": "mine", "bouquet-supernode": "mine-cpu"}
    objects = overlay("cpu", settings={"DATASET": "", "ROUNDS": ""}, tags=tags)
    specs = [spec for owner, pod in pods(objects) for _, spec in containers(pod, owner)]
    assert {spec["image"] for spec in specs} == {"bouquet-superlink:mine", "bouquet-supernode:mine-cpu"}
    settings = settings_of(objects)
    assert (settings["DATASET"], settings["ROUNDS"], settings["BOUQUET_ALLOWED_APPS"]) == ("", "", "own")
    assert not [spec for spec in specs if "workingDir" in spec or "APP" in plain_environment(spec)]
    assert [problem for rule in RULES for problem in rule(objects)] == []


def test_changed_settings_replace_the_pods_that_read_them() -> None:
    def settings_name(objects: list[Object]) -> str:
        pod = find(objects, "StatefulSet", "bouquet-supernode")["spec"]["template"]["spec"]
        return str(container(pod, "supernode")["envFrom"][0]["configMapRef"]["name"])

    assert settings_name(combination("cpu")) != settings_name(overlay("cpu", settings={"ROUNDS": "6"}))


def _client_pod(name: str) -> Object:
    pod: Object = find(combination(name), "StatefulSet", "bouquet-supernode")["spec"]["template"]["spec"]
    return pod


def test_the_gpu_overlay_gives_each_client_one_gpu() -> None:
    for name, resource in (("gpu", "nvidia.com/gpu"), ("gpu+time-slicing", "nvidia.com/gpu.shared")):
        pod = _client_pod(name)
        limits = container(pod, "supernode")["resources"]["limits"]
        assert {key: value for key, value in limits.items() if "nvidia" in key} == {resource: "1"}
        assert any(toleration["key"] == "nvidia.com/gpu" for toleration in pod["tolerations"])


def test_no_container_but_the_gpu_overlays_client_sees_a_gpu() -> None:
    for name, with_gpu in (("cpu", set[str]()), ("gpu", {"supernode"}), ("gpu+time-slicing", {"supernode"})):
        pod = _client_pod(name)
        assert {
            entry["name"]
            for _, entry in containers(pod)
            if plain_environment(entry).get("NVIDIA_VISIBLE_DEVICES") != "void"
        } == with_gpu
    assert "nvidia.com" not in yaml.safe_dump(_client_pod("cpu"))


def test_the_own_registry_serves_every_image_of_bouquet() -> None:
    for item in combination("cpu+registry"):
        for entry in item["spec"]["template"]["spec"]["containers"] if item["kind"] == "StatefulSet" else []:
            assert entry["image"].startswith("registry.example.com/")
    assert "image: bouquet-" not in yaml.safe_dump_all(combination("cpu+registry"))


def test_the_settings_name_no_value_twice() -> None:
    lines = (K8S / "base/settings.env").read_text().splitlines()
    names = [line.split("=")[0] for line in lines if line and not line.startswith("#")]
    assert len(names) == len(set(names))
    assert len(named(combination("cpu"), "ConfigMap")) == 1
