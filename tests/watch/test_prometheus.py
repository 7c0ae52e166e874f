"""A real Prometheus scrapes a real SuperLink, and its figures are those of the run's files; alert rules and dashboard hold."""

import csv
import json
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from container_engine import ROOT
from federation_processes import Fleet, until
from prometheus import MONITORING, Prometheus, program, prometheus

from app.fleet.control import Connection
from app.fleet.host.ports import free_port
from app.fleet.identity import certificates, keys, members

pytestmark = pytest.mark.federation
NAMES = ("hospital-a", "hospital-b", "hospital-c")
DASHBOARD = json.loads((MONITORING / "grafana" / "bouquet.json").read_text())
ALERTS = MONITORING / "alerts.yaml"
TROUBLESHOOTING = (ROOT / "docs" / "troubleshooting.md").read_text()


@dataclass
class Watched:
    """A federation with TLS whose run is over, and the Prometheus that has watched it."""

    fleet: Fleet
    prometheus: Prometheus
    connection: Connection

    @property
    def folder(self) -> Path:
        return (self.fleet.folder / "results" / "latest").resolve()


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory, small_store: Path) -> Iterator[Watched]:
    folder, port = tmp_path_factory.mktemp("watched"), free_port()
    pki, ca = folder / "pki", str(folder / "pki" / "ca.crt")
    certificates.init_ca(pki)
    certificates.issue_server(pki)
    fleet = Fleet(folder, small_store, num_clients=len(NAMES))
    with fleet.taken_down(), prometheus(folder / "prometheus", f"127.0.0.1:{port}") as watching:
        fleet.start(
            "superlink", "superlink", "--certificates", str(pki), "--state", str(folder / "state"),
            "--fleet-address", f"127.0.0.1:{fleet.fleet_port}", "--control-port", str(fleet.control_port),
            "--metrics", str(port),
        )  # fmt: skip
        until(lambda: watching.value("bouquet_superlink_answers"), 90, lambda: fleet.log("superlink"))
        connection = Connection(f"127.0.0.1:{fleet.control_port}", pki / "ca.crt")
        for number, name in enumerate(NAMES):
            pair = keys.make_node_key(folder / f"{name}.key")
            members.enroll(name, pair.public_path, connection)
            fleet.start(
                name, "supernode", "--superlink", f"127.0.0.1:{fleet.fleet_port}", "--ca", ca,
                "--key", str(folder / f"{name}.key"), "--health-port", "0", PARTITION_ID=str(number),
            )  # fmt: skip
        train = fleet.start(
            "train", "train", "--ca", ca, "--control-address", connection.address, "--rounds", "2",
            "--config", "fraction-evaluate=1.0 batch-size=128",
        )  # fmt: skip
        assert train.wait(180) == 0, fleet.log("train")
        over = (
            'bouquet_runs_ended_total{status="completed"} == 1 and on () bouquet_runs{state="completed"} == 1'
        )
        until(lambda: watching.ask(over), 30, lambda: "the run's end was not scraped")
        yield Watched(fleet, watching, connection)


def test_the_figures_are_those_of_the_runs_files(watched: Watched) -> None:
    ask = watched.prometheus.value
    summary = json.loads((watched.folder / "summary.json").read_text())
    with (watched.folder / "history.csv").open() as file:
        rows = list(csv.DictReader(file))
    run = f'{{run="{watched.folder.name}"}}'
    server = [row for row in rows if row["phase"] == "server"]
    assert ask(f"bouquet_run_accuracy{run}") == summary["accuracy"] == float(server[-1]["accuracy"])
    assert ask(f"bouquet_run_loss{run}") == summary["loss"]
    assert ask(f"bouquet_run_round{run}") == ask("bouquet_rounds_finished_total") == summary["rounds"] == 2
    assert ask("bouquet_round_seconds_sum") == pytest.approx(sum(summary["round_s"]), abs=0.01)
    for phase in ("train", "evaluate"):
        of_phase = [row for row in rows if row["phase"] == phase]
        accepted = f'bouquet_replies_total{{phase="{phase}", outcome="accepted"}}'
        assert ask(accepted) == len(of_phase) == 6
        for name in NAMES:
            last = [row for row in of_phase if row["partition_id"] == str(NAMES.index(name))][-1]
            reply = ask(f'bouquet_client_reply_seconds{{phase="{phase}", client="{name}"}}')
            assert reply == pytest.approx(float(last["seconds"]), abs=0.001)
    for direction in ("down", "up"):
        total = sum(int(row[f"bytes_{direction}"] or 0) for row in rows)
        assert ask(f'bouquet_bytes_total{{direction="{direction}"}}') == total
    assert ask("sum(bouquet_reply_failures_total)") == 0
    assert ask('bouquet_runs{state="completed"}') == 1 and ask(f"bouquet_run_running{run}") == 0
    for name in NAMES:
        assert ask(f'bouquet_client_online{{client="{name}"}}') == 1
        seen = ask(f'time() - bouquet_client_last_seen_timestamp_seconds{{client="{name}"}}')
        assert seen is not None and 0 <= seen < 120
        begun = f'bouquet_client_messages_total{{client="{name}"}}'
        until(lambda begun=begun: (ask(begun) or 0) >= 4, 40, lambda begun=begun: f"{begun}: {ask(begun)}")  # type: ignore[misc]
        loaded = ask(f'bouquet_client_apps_loaded_total{{client="{name}"}}')
        assert loaded is not None and 1 <= loaded < 4, "warm starts"
    expiry = ask('bouquet_certificate_expiry_timestamp_seconds{certificate="server"} - time()')
    assert expiry is not None and expiry > 86400
    assert (ask("process_resident_memory_bytes") or 0) > 1 << 20
    assert (ask('bouquet_disk_free_bytes{folder="state"}') or 0) > 0


def expressions() -> dict[str, str]:
    """The dashboard's queries, by panel, for all jobs, SuperLinks and runs."""
    found = {
        f"{panel['id']} {panel['title']} {target['refId']}": target["expr"]
        for panel in DASHBOARD["panels"]
        for target in panel.get("targets", [])
    }
    found |= {each["name"]: each["expr"] for each in DASHBOARD["annotations"]["list"]}
    for name in ("$job", "$instance", "$run"):
        found = {panel: text.replace(name, ".*") for panel, text in found.items()}
    return {panel: text.replace("$__range", "1h") for panel, text in found.items()}


def test_every_panel_of_the_dashboard_shows_something(watched: Watched) -> None:
    asked = expressions()
    assert len(asked) > 25
    empty = {panel for panel, text in asked.items() if not watched.prometheus.ask(text)}
    # What is marked is the moment at which a run begins or ends, which is over.
    assert empty <= {"Run begins, goes on or ends"}
    for variable in DASHBOARD["templating"]["list"][1:]:
        metric, label = re.findall(r"label_values\((\w+).*, (\w+)\)", variable["query"]["query"])[0]
        assert all(label in labels for labels, _ in watched.prometheus.ask(metric)), variable["name"]


def test_alert_rules_name_metrics_that_are_there_and_none_fires(watched: Watched) -> None:
    rules = yaml.safe_load(ALERTS.read_text())["groups"][0]["rules"]
    until(
        lambda: set(watched.prometheus.rules().values()) == {"ok"},
        30,
        lambda: str(watched.prometheus.rules()),
    )
    assert set(watched.prometheus.rules()) == {rule["alert"] for rule in rules}
    for name in sorted(set(re.findall(r"\bbouquet_\w+", ALERTS.read_text()))):
        assert watched.prometheus.ask(name), name
    assert watched.prometheus.ask("ALERTS") == []
    for rule in rules:
        page, _, anchor = rule["annotations"]["runbook_url"].partition("#")
        assert page == "docs/troubleshooting.md" and f'<a id="{anchor}"></a>' in TROUBLESHOOTING


def test_a_client_that_is_revoked_has_no_figures_any_more(watched: Watched) -> None:
    members.revoke("hospital-b", watched.connection)
    gone = '{client="hospital-b"}'
    until(lambda: not watched.prometheus.ask(gone), 30, lambda: str(watched.prometheus.ask(gone)))
    assert watched.prometheus.ask('{client="hospital-a"}')


def test_promtool_takes_configuration_and_rules() -> None:
    promtool = program("promtool")
    for arguments in (
        ["check", "config", str(MONITORING / "prometheus.yaml")],
        ["check", "rules", str(ALERTS)],
        ["test", "rules", str(ROOT / "tests" / "watch" / "alerts.test.yaml")],
    ):
        done = subprocess.run([promtool, *arguments], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stdout + done.stderr
