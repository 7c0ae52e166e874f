"""Another Flower app gets its data, and leaves its results where all runs do, and nothing elsewhere."""

import json
import shutil
from pathlib import Path

import pytest
from federation_processes import Fleet, bouquet
from readme import blocks, follow
from template_hub import template_hub
from tiny_apps import make_app
from wheels import make_wheel

from app.fleet.runs.bundle import build

pytestmark = pytest.mark.federation

CLIENT = """
    def work(number):
        print("never seen by the server")

    @app.evaluate()
    def evaluate(message, context):
        from flwr.app import ConfigRecord
        given = context.node_config["dataset-path"]
        open("note.txt", "w").write("in a folder that ends with the app's process")
        assert given == os.environ["BOUQUET_DATASET"] and context.node_config["num-partitions"] == 2
        with open(given) as file:
            told = ConfigRecord({"number": context.node_config["partition-id"], "data": file.read()})
        return Message(RecordDict({"told": told}), reply_to=message)
"""
SERVER = """
    import os
    from pathlib import Path

    @app.main()
    def main(grid, context):
        replies = grid.send_and_receive([Message(RecordDict(), node, "evaluate") for node in grid.get_node_ids()])
        told = sorted((dict(reply.content["told"]) for reply in replies), key=lambda each: each["number"])
        Path("told.txt").write_text(str(told))
        Path(os.environ["BOUQUET_ARTEFACTS"], "model.bin").write_bytes(b"model")
        print("the app", "says so", flush=True)
        os.write(1, b"")
"""


def test_an_app_gets_its_data_and_its_results_are_collected(tmp_path: Path) -> None:
    """From the app's own folder, by its bundle; the source tree stays as it was."""
    project = make_app(
        tmp_path, "sample", CLIENT, SERVER.replace("@app.main", "app = ServerApp()\n\n    @app.main")
    )
    bundle = tmp_path / "sample.fab"
    bundle.write_bytes(build(project))
    data = tmp_path / "data.csv"
    data.write_text("1,2")
    before = sorted(project.rglob("*"))
    done = bouquet(
        "up", "--clients", "2", "--app", str(bundle), "--dataset", str(data), "--results", str(tmp_path / "results"),
        cwd=project,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "the app says so" in done.stdout.splitlines()
    run = (tmp_path / "results" / "latest").resolve()
    assert f"results in {run}" in done.stdout
    told = [{"number": number, "data": "1,2"} for number in range(2)]
    assert (run / "artefacts" / "told.txt").read_text() == str(told)
    assert (run / "artefacts" / "model.bin").read_bytes() == b"model"
    assert "the app says so" in (run / "log.txt").read_text().splitlines()
    summary = json.loads((run / "summary.json").read_text())
    assert (summary["status"], summary["app"], summary["mode"]) == ("completed", "tests/sample", "local")
    assert summary["settings"] == {"rounds": 1, "timeout": 90} and summary["failures"] == {}
    assert sorted(project.rglob("*")) == before
    assert not (tmp_path / "results" / ".bouquet").exists() and not (project / ".bouquet").exists()


@pytest.mark.parametrize(
    ("client", "status", "exit_status", "words"),
    [
        ("def work(number):\n    raise ValueError('asked for')", "failed", 1, "ValueError: asked for"),
        ("def work(number):\n    assert number", "subset", 3, "AssertionError"),
    ],
)
def test_the_summary_names_the_clients_that_failed(
    two_clients: Fleet, tmp_path: Path, client: str, status: str, exit_status: int, words: str
) -> None:
    project = make_app(tmp_path, f"sample{exit_status}", client)
    assert two_clients.train_to_the_end("", project, 100)[0] == exit_status
    run = two_clients.folder / "results" / "latest"
    summary = json.loads((run / "summary.json").read_text())
    assert summary["status"] == status
    assert len(summary["failures"]) == (2 if status == "failed" else 1)
    assert all(words in each["reason"] for each in summary["failures"].values())
    assert words in (run / "log.txt").read_text()
    shutil.rmtree(run.resolve())


def test_the_readmes_way_from_a_simulation_to_real_machines(tmp_path: Path) -> None:
    """Word by word; the hub alone is stood in for (``template_hub.py``)."""
    on_this_machine, _ = blocks("From your simulation to real machines")
    with template_hub() as environment:
        said = follow(on_this_machine, tmp_path, {**environment, "FLWR_HOME": str(tmp_path / "home")}, 240)
    results = tmp_path / "results" / "latest"
    summary = json.loads((results / "summary.json").read_text())
    assert (summary["status"], summary["app"]) == ("completed", "flwrlabs/quickstart-numpy"), said
    assert (results / "artefacts" / "final_model.npz").is_file()
    assert "4 clients as plain processes on this machine, the app in quickstart-numpy" in said
    assert not (tmp_path / ".bouquet").exists(), "it asks for nothing more than is here"


def test_what_an_app_asks_for_is_there_before_anything_starts(tmp_path: Path) -> None:
    make_wheel(tmp_path / "wheels", "petals", requires=["stems"])
    make_wheel(tmp_path / "wheels", "stems")
    project = make_app(tmp_path, "sample", "import petals, stems", "import petals")
    text = (project / "pyproject.toml").read_text()
    (project / "pyproject.toml").write_text(text.replace("dependencies = []", 'dependencies = ["petals>=1"]'))
    refused = bouquet("train", "--app", str(project), "--clients", "2", cwd=tmp_path)
    assert refused.returncode == 2
    assert "error: the app asks for petals>=1, which is not installed here: " in refused.stderr
    done = bouquet(
        "up", "--app", str(project), "--clients", "2", cwd=tmp_path,
        environment={"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(tmp_path / "wheels")},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "adding what the app asks for: petals>=1" in done.stdout and "round 0: 2 replies" in done.stdout
