"""A real Prometheus (Debian's package `prometheus`), beside what it scrapes."""

import json
import shutil
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from container_engine import ROOT, cannot_run
from federation_processes import until

from app.fleet.host.ports import free_port

MONITORING = ROOT / "deploy" / "monitoring"


def program(name: str) -> str:
    """A program of the package."""
    found = shutil.which(name)
    if found is None:
        cannot_run(f"there is no {name}: apt-get install prometheus")
    return found


@dataclass
class Prometheus:
    """One that runs."""

    port: int

    def ask(self, expression: str) -> list[tuple[dict[str, str], float]]:
        """Evaluate PromQL now: labels and value of each series."""
        query = urllib.parse.urlencode({"query": expression})
        found = self._get(f"query?{query}")["result"]
        return [(each["metric"], float(each["value"][1])) for each in found]

    def value(self, expression: str) -> float | None:
        """The only value of an expression; None for none."""
        found = self.ask(expression)
        assert len(found) < 2, found
        return found[0][1] if found else None

    def rules(self) -> dict[str, str]:
        """The health of each rule, by the name of its alert."""
        groups = self._get("rules")["groups"]
        return {rule["name"]: rule["health"] for group in groups for rule in group["rules"]}

    def _get(self, path: str) -> Any:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/api/v1/{path}", timeout=20) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{urllib.parse.unquote_plus(path)}: {error.read().decode()}") from None


@contextmanager
def prometheus(folder: Path, target: str) -> Iterator[Prometheus]:
    """Start it with the configuration and the rules of ``deploy/monitoring``; it scrapes ``target`` each second."""
    config = yaml.safe_load((MONITORING / "prometheus.yaml").read_text())
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    config["rule_files"] = [str(MONITORING / name) for name in config["rule_files"]]
    [job] = config["scrape_configs"]
    job["static_configs"] = [{"targets": [target]}]
    folder.mkdir()
    (folder / "prometheus.yaml").write_text(yaml.safe_dump(config))
    running = Prometheus(free_port())
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [
                program("prometheus"), f"--config.file={folder / 'prometheus.yaml'}",
                f"--storage.tsdb.path={folder / 'data'}", f"--web.listen-address=127.0.0.1:{running.port}",
            ],
            stdout=log, stderr=subprocess.STDOUT, cwd=folder,
        )  # fmt: skip

    def answers() -> bool:
        assert process.poll() is None, (folder / "log").read_text()
        try:
            return running.value("vector(1)") == 1
        except (OSError, AssertionError):
            return False

    try:
        until(answers, 60, lambda: "Prometheus does not answer")
        yield running
    finally:
        process.terminate()
        process.wait(30)
