"""An app in containers, as `docker compose up` runs it. Its clients reach a stand-in of the hub, and nothing else."""

import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from bench import compose, hub
from bench.compose import BUILD_TIMEOUT_S, COMPOSE
from bench.environments import ROOT
from bench.processes import Processes

HUB_PORT = 8000


def with_hub(file: Path, tag: str, data_sets: Mapping[str, Path]) -> Path:
    """Write what `compose.yaml` needs more: a hub that clients and the server can reach; returns the file.

    Args:
        file: to write.
        tag: of the images.
        data_sets: the folder of each, by its name on the hub.
    """
    variables = hub.environment(HUB_PORT, Path("/tmp/huggingface"), host="hub")
    mounts = [f"{ROOT / 'bench'}:/stand-in/bench:ro"]
    mounts += [f"{folder.resolve()}:/shelf/{name}:ro" for name, folder in data_sets.items()]
    services = {
        "hub": {
            "image": f"bouquet-superlink:{tag}",
            "pull_policy": "never",
            "entrypoint": ["python", "-m", "bench.hub", "/shelf", str(HUB_PORT)],
            "working_dir": "/stand-in",
            "volumes": mounts,
            "networks": ["federation"],
            "read_only": True,
            "cap_drop": ["ALL"],
            "healthcheck": {"disable": True},
        },
        "superlink": {"environment": variables, "depends_on": {"hub": {"condition": "service_started"}}},
        "supernode-cpu": {"environment": variables},
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({"services": services}), encoding="utf-8")  # JSON is YAML
    return file


def run(
    app: Path, config: str, clients: int, processes: Processes, limit_s: float, data_sets: Mapping[str, Path]
) -> Iterator[str]:
    """The lines of one run, in a project of its own that is removed afterwards. The images hold the app and its packages."""
    tag = f"bench-{app.name.lower()}"
    image: list[str | Path] = [
        sys.executable,
        "-m",
        "app.cli",
        "image",
        "--app",
        app,
        "--base",
        "latest",
        "--tag",
        tag,
        "--keep-versions",
    ]
    settings = {
        "NUM_CLIENTS": str(clients),
        "IMAGE_TAG": tag,
        "APP": "",
        "CONFIG": config,
        "BOUQUET_CONFINEMENT": "off",  # an app that fetches its data itself makes connections
        "COMPOSE_FILE": f"compose.yaml:{with_hub(processes.logs / 'hub.yaml', tag, data_sets)}",
    }
    compose.build(processes)
    _drain(processes.run("image", image, BUILD_TIMEOUT_S, cwd=ROOT))
    with compose.project(processes.logs, **{**processes.env, **settings}) as (_, here):
        _drain(here.run("up", (*COMPOSE, "up", "--detach", "supernode-cpu"), limit_s, cwd=ROOT))
        yield from here.run("train", (*COMPOSE, "run", "--rm", "--no-TTY", "train"), limit_s, cwd=ROOT)


def _drain(lines: Iterable[str]) -> None:
    for _ in lines:
        pass
