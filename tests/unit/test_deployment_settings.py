"""A setting has one name in `.env`, Compose, hosts, systemd, Kubernetes and the images, and `make run` obeys it."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from small_checkout import add_command, copy_checkout

from app.environment import Setting, declared
from app.fleet.deployment import KINDS, ComposeSettings, DataSettings, PrepareSettings, RunRequest

ROOT = Path(__file__).resolve().parents[2]
HOSTS, K8S = ROOT / "deploy" / "hosts", ROOT / "deploy" / "k8s"
DECLARED: dict[str, Setting] = {
    of.variable: of for kind in KINDS for of in declared(kind.settings).values() if of.variable
}
FORMER = {of.former for of in DECLARED.values() if of.former}  # handed on only to be refused
# Read by others: Flower, NVIDIA's container runtime, Python and libraries.
FOREIGN = {
    "FLWR_HOME", "FLWR_TELEMETRY_ENABLED", "FLWR_DISABLE_UPDATE_CHECK", "NVIDIA_VISIBLE_DEVICES",
    "NVIDIA_DRIVER_CAPABILITIES", "PATH", "PYTHONPATH", "PYTHONUNBUFFERED", "HF_HOME", "MPLCONFIGDIR",
    *(f"GF_{name}" for name in (
        "AUTH_ANONYMOUS_ENABLED", "AUTH_ANONYMOUS_ORG_ROLE", "AUTH_DISABLE_LOGIN_FORM", "AUTH_BASIC_ENABLED",
        "ANALYTICS_REPORTING_ENABLED", "ANALYTICS_CHECK_FOR_UPDATES", "ANALYTICS_CHECK_FOR_PLUGIN_UPDATES",
        "PLUGINS_PREINSTALL_DISABLED", "DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH",
    )),
}  # fmt: skip
# In no file: a person sets them for one command, or one process sets them for another.
BY_HAND = {
    "BOUQUET_PATCHES", "BOUQUET_WORKER", "BOUQUET_DEVICE", "BOUQUET_LOCAL_CLIENTS", "BOUQUET_RUN", "BOUQUET_MEMBERS",
    "BOUQUET_ARTEFACTS", "BOUQUET_RUN_FOLDER", "BOUQUET_PKI", "BOUQUET_APP_READS", "CUDA_VISIBLE_DEVICES", "KUBERNETES_SERVICE_HOST", "KUBERNETES_SERVICE_PORT",
}  # fmt: skip


def assignments(file: Path) -> dict[str, str]:
    """The variables of an `.env` file."""
    lines = file.read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))


def uses(file: Path) -> list[tuple[str, str]]:
    """The variables that a Compose file fills in, with what it fills in where there is none."""
    return re.findall(r"\$\{([A-Z_0-9]+)(?::?[-?+]([^}]*))?\}", file.read_text())


def set_in_containers(document: Any) -> set[str]:
    """The variables that Compose services and Kubernetes containers get."""
    found: set[str] = set()
    if isinstance(document, dict):
        for key, value in document.items():
            if key == "environment" and isinstance(value, dict):
                found |= value.keys() - {"<<"}
            if key == "env" or (key == "value" and str(document.get("path")).endswith("/env")):
                found |= {entry["name"] for entry in value}
            if key == "patch" and isinstance(value, str):
                value = yaml.safe_load(value)
            found |= set_in_containers(value)
    if isinstance(document, list):
        found |= {name for item in document for name in set_in_containers(item)}
    return found


def in_yaml(*files: Path) -> set[str]:
    return {
        n
        for f in files
        for document in yaml.safe_load_all(f.read_text())
        for n in set_in_containers(document)
    }


COMPOSE_FILES = [ROOT / "compose.yaml", HOSTS / "server.compose.yaml", HOSTS / "client.compose.yaml"]
ENV_FILES = {
    ".env": ROOT / ".env",
    "server": HOSTS / "server.env.example",
    "client": HOSTS / "client.env.example",
    "systemd superlink": HOSTS / "systemd" / "superlink.env.example",
    "systemd supernode": HOSTS / "systemd" / "supernode.env.example",
    "kubernetes": K8S / "base" / "settings.env",
}
IMAGE = set(
    re.findall(r"^(?:ENV| {4})\s*((?:[A-Z_]+=\S+ ?)+)", (ROOT / "docker" / "Dockerfile").read_text(), re.M)
)
SOURCES: dict[str, set[str]] = {
    **{name: set(assignments(file)) for name, file in ENV_FILES.items()},
    **{file.name: in_yaml(file) | {name for name, _ in uses(file)} for file in COMPOSE_FILES},
    "manifests": in_yaml(*K8S.rglob("*.yaml")),
    "image": {name for line in IMAGE for name in re.findall(r"([A-Z_]+)=", line)},
}


@pytest.mark.parametrize("source", SOURCES)
def test_every_variable_of_a_file_is_a_setting(source: str) -> None:
    assert SOURCES[source], "nothing was found"
    assert SOURCES[source] - FOREIGN - FORMER - DECLARED.keys() == set()


def test_every_setting_stands_in_a_file_or_is_known_to_be_set_by_hand() -> None:
    everywhere = set().union(*SOURCES.values())
    assert DECLARED.keys() - everywhere == BY_HAND


@pytest.mark.parametrize("place", [".env", "server", "kubernetes"])
def test_what_is_learned_from_and_what_is_run_can_be_chosen_wherever_a_federation_starts(place: str) -> None:
    wanted = {
        of.variable
        for kind in (DataSettings, RunRequest, PrepareSettings)
        for of in declared(kind).values()
        if of.variable and of.variable not in BY_HAND | {"BOUQUET_DATA"}
    }
    if place == "kubernetes":
        wanted -= {
            "APP",
            "DATASET_FOLDER",
        }  # a pod sees no folder of a host; `bouquet image` puts an app into the image
    assert wanted <= SOURCES[place]


@pytest.mark.parametrize(
    ("compose", "env"),
    [("compose.yaml", ".env"), ("server.compose.yaml", "server"), ("client.compose.yaml", "client")],
)
def test_compose_uses_all_of_its_settings_and_no_others(compose: str, env: str) -> None:
    """Nothing in an `.env` is without effect."""
    (file,) = [file for file in COMPOSE_FILES if file.name == compose]
    own = {"COMPOSE_PROFILES", "COMPOSE_PROJECT_NAME"}  # of Docker Compose itself
    assert {name for name, _ in uses(file)} - {"BOUQUET_MODE"} - FORMER == SOURCES[env] - own


def test_the_defaults_in_compose_are_those_of_env_or_of_the_settings() -> None:
    """Compose without `.env` (`--env-file`) means the same as with it."""
    values = assignments(ROOT / ".env")
    checked = set()
    for name, default in uses(ROOT / "compose.yaml"):
        if name in (
            "BOUQUET_MODE",
            "DATASET",
            "DATASET_FOLDER",
            "APP",
            "BOUQUET_DATASET",
            *FORMER,
        ):  # a folder is mounted, or /dev/null for none
            continue
        declared_default = (
            "" if DECLARED[name].default in (None, (), frozenset()) else str(DECLARED[name].default)
        )
        assert default == (values[name] or declared_default), name
        checked.add(name)
    assert len(checked) > 20


def test_the_values_of_env_are_the_defaults() -> None:
    """So that a checkout without `.env` behaves the same."""
    values = assignments(ROOT / ".env")
    for kind in KINDS:
        if kind.reads_dotenv:
            for of in declared(kind.settings).values():
                if values.get(of.variable):
                    assert values[of.variable] == str(of.default), of.variable


def test_the_compose_settings_stand_beside_the_compose_files() -> None:
    for of in declared(ComposeSettings).values():
        assert of.variable in SOURCES[".env"] | SOURCES["server"] | SOURCES["client"]


# -- make run -----------------------------------------------------------------------------------

BOUQUET = """#!{python}
import sys
from app.environment import read
from app.fleet.deployment import UpSettings, dotenv
found = read(UpSettings, dotenv=dotenv())
print(sys.argv[1:], found.num_clients, found.rounds, found.source, found.config, *filter(None, [found.app]))
"""
DOCKER = """#!/bin/sh
echo "$*: NUM_CLIENTS=${NUM_CLIENTS-unset} ROUNDS=${ROUNDS-unset} APPS=${BOUQUET_ALLOWED_APPS-unset} APP=${APP-unset} DATA=${BOUQUET_DATASET-unset} DATASET=${DATASET-unset} FOLDER=${DATASET_FOLDER-unset}" >>calls
[ "$*" != "compose version --short" ] || echo 2.40.0
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of what `make run` reads, with four clients and two rounds in `.env`, and a stub of each command."""
    copy_checkout(tmp_path, ("Makefile",), BOUQUET.format(python=sys.executable))
    add_command(tmp_path, "docker", DOCKER)
    return tmp_path


def make(checkout: Path, *arguments: str, **environment: str) -> str:
    """Run `make run`, and return what it printed."""
    names = {*DECLARED, "CLIENTS", "MAKEFLAGS", "MAKELEVEL", "MODE"}
    own = {name: value for name, value in os.environ.items() if name not in names}
    path = os.pathsep.join([str(checkout / ".venv" / "bin"), own["PATH"]])
    output = checkout / "output"
    with output.open("w") as file:  # not a pipe, which would stay open as long as any child lives
        status = subprocess.run(
            ["make", "run", *arguments],
            cwd=checkout,
            env=own | environment | {"PYTHONPATH": str(checkout), "PATH": path},
            stdout=file,
            stderr=subprocess.DEVNULL,
            timeout=120,
        ).returncode
    assert status == 0, output.read_text()
    return output.read_text()


@pytest.mark.parametrize(
    ("arguments", "environment", "found"),
    [
        ([], {}, "4 2 digits "),
        ([], {"NUM_CLIENTS": "3"}, "3 2 digits "),
        ([], {"NUM_CLIENTS": "", "ROUNDS": ""}, "4 2 digits "),
        (["CLIENTS=5"], {"NUM_CLIENTS": "3"}, "5 2 digits "),
        (["CLIENTS=5", "ROUNDS=1", "CONFIG=seed=1"], {"ROUNDS": "7"}, "5 1 digits seed=1"),
        (["CLIENTS="], {}, "4 2 digits "),
        (["APP=docker"], {}, "4 2 digits  docker"),
    ],
)
def test_make_run_obeys_dotenv_unless_the_environment_or_make_says_otherwise(
    checkout: Path, arguments: list[str], environment: dict[str, str], found: str
) -> None:
    assert make(checkout, "MODE=local", *arguments, **environment) == f"['up'] {found}\n"


@pytest.mark.parametrize(
    ("arguments", "environment", "clients", "dataset"),
    [
        ([], {}, "unset", "DATASET=unset FOLDER=unset"),
        ([], {"NUM_CLIENTS": "3"}, "3", "DATASET=unset FOLDER=unset"),
        (
            [],
            {"NUM_CLIENTS": "", "DATASET": "", "BOUQUET_ALLOWED_APPS": ""},
            "unset",
            "DATASET=unset FOLDER=unset",
        ),
        (["CLIENTS=5"], {"NUM_CLIENTS": "3"}, "5", "DATASET=unset FOLDER=unset"),
        (["DATASET=app"], {}, "unset", "DATASET= FOLDER={checkout}/app"),
    ],
)
def test_make_run_in_containers_leaves_dotenv_to_compose(
    checkout: Path, arguments: list[str], environment: dict[str, str], clients: str, dataset: str
) -> None:
    """Compose reads `.env` itself; a variable that is set, even an empty one, would win over it."""
    make(checkout, "MODE=compose-cpu", *arguments, **environment)
    calls = (checkout / "calls").read_text().splitlines()
    started = [call for call in calls if " up " in call]
    assert len(started) == 1 and "--scale" not in started[0], "the number of replicas is Compose's"
    assert f"NUM_CLIENTS={clients} " in started[0] and " APPS=unset " in started[0]
    assert started[0].endswith(dataset.format(checkout=checkout))


def test_another_app_is_put_into_the_images_and_its_data_is_handed_on_as_it_is(checkout: Path) -> None:
    said = make(checkout, "MODE=compose-cpu", "APP=app", f"DATASET={checkout / 'Makefile'}")
    (started,) = [call for call in (checkout / "calls").read_text().splitlines() if " up " in call]
    assert started.endswith(f"APP= DATA={checkout / 'Makefile'} DATASET= FOLDER=unset")
    assert "['image', '--app', 'app', '--base', 'latest', '--tag', 'latest-app']" in said
