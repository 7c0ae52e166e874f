"""Render the manifests as `kubectl apply -k` would."""

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from container_engine import cannot_run

Object = dict[str, Any]

K8S = Path(__file__).parents[3] / "deploy" / "k8s"

# Overlay, components on top of it: what a person would combine.
COMBINATIONS: dict[str, tuple[str, tuple[str, ...]]] = {
    "cpu": ("cpu", ()),
    "gpu": ("gpu", ()),
    "external": ("external", ()),
    "cpu+registry": ("cpu", ("registry",)),
    "cpu+hub-egress": ("cpu", ("hub-egress",)),
    "cpu+no-dns": ("cpu", ("no-dns",)),
    "cpu+cert-manager": ("cpu", ("cert-manager",)),
    "cpu+tensorboard": ("cpu", ("tensorboard",)),
    "cpu+monitoring": ("cpu", ("monitoring",)),
    "cpu+all": (
        "cpu",
        ("hub-egress", "cert-manager", "tensorboard", "monitoring", "external-clients", "registry"),
    ),
    "gpu+runtime-class": ("gpu", ("runtime-class",)),
    "gpu+time-slicing": ("gpu", ("time-slicing",)),
    "gpu+all": (
        "gpu",
        ("runtime-class", "time-slicing", "hub-egress", "cert-manager", "tensorboard", "registry"),
    ),
    "external+cert-manager": ("external", ("cert-manager", "registry")),
}


@cache
def _command() -> tuple[str, ...]:
    # Kustomize 5 came with kubectl 1.27. Debian's kustomize 5 calls itself (devel).
    for command, version, good in (
        (("kubectl", "kustomize"), ("kubectl", "version", "--client"), r"Kustomize Version: v[5-9]"),
        (("kustomize", "build"), ("kustomize", "version"), r"v[5-9]\.|devel"),
    ):
        if shutil.which(command[0]):
            answer = subprocess.run(version, capture_output=True, text=True).stdout
            if re.search(good, answer):
                return command
    return ()


def kustomize(folder: Path) -> list[Object]:
    """The objects that `folder` renders to."""
    if not _command():
        cannot_run("no kubectl 1.27 or newer and no kustomize 5 on PATH")
    result = subprocess.run([*_command(), str(folder)], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert not result.stderr, result.stderr  # a deprecation would stand here
    return list(yaml.safe_load_all(result.stdout))


def overlay(
    base: str,
    components: Sequence[str] = (),
    settings: Mapping[str, str] | None = None,
    tags: Mapping[str, str] | None = None,
    namespace: str = "bouquet",
) -> list[Object]:
    """What a site's own overlay on top of `base` renders to, with its `settings`, image `tags` and `namespace`."""
    with tempfile.TemporaryDirectory() as folder:
        # Kustomize takes no absolute paths, and follows links before it counts the dots.
        up = os.path.relpath(K8S.resolve(), Path(folder).resolve())
        kustomization: Object = {
            "apiVersion": "kustomize.config.k8s.io/v1beta1",
            "kind": "Kustomization",
            "namespace": namespace,
            "resources": [f"{up}/overlays/{base}"],
            "components": [f"{up}/components/{name}" for name in components],
        }
        if tags:
            kustomization["images"] = [{"name": name, "newTag": tag} for name, tag in tags.items()]
        if settings:
            kustomization["configMapGenerator"] = [
                {
                    "name": "bouquet-settings",
                    "behavior": "merge",
                    "literals": [f"{name}={value}" for name, value in settings.items()],
                }
            ]
            shipped = yaml.safe_load((K8S / "overlays/cpu/kustomization.yaml").read_text())
            kustomization["replacements"] = shipped["replacements"]
        (Path(folder) / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
        return kustomize(Path(folder))


@cache
def _combination(name: str) -> tuple[Object, ...]:
    base, components = COMBINATIONS[name]
    return tuple(overlay(base, components) if components else kustomize(K8S / "overlays" / base))


def combination(name: str) -> list[Object]:
    """One of COMBINATIONS; the caller must not change it."""
    return list(_combination(name))
