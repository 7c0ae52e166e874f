"""Another Flower app in containers: by `bouquet image` with what it asks for, and by `APP`."""

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from compose_stack import Stack, docker
from container_engine import ROOT, build_environment
from federation_processes import bouquet
from readme import blocks, follow
from template_hub import template_hub
from tiny_apps import make_app
from wheels import make_wheel

pytestmark = pytest.mark.containers

README_TAG = "quickstart"  # in the README
CLIENT = """
    import petals

    def work(number):
        pass

    @app.evaluate()
    def evaluate(message, context):
        from flwr.app import ConfigRecord
        given = context.node_config["dataset-path"]
        with open(given) as file:
            told = ConfigRecord({"number": context.node_config["partition-id"], "data": file.read()})
        return Message(RecordDict({"told": told}), reply_to=message)
"""
SERVER = """
    import petals
    app = ServerApp()

    @app.main()
    def main(grid, context):
        messages = [Message(RecordDict(), node, "evaluate") for node in grid.get_node_ids()]
        told = [dict(reply.content["told"]) for reply in grid.send_and_receive(messages)]
        with open("told.txt", "w") as file:
            file.write(str(sorted(told, key=lambda each: each["number"])))
"""


def _asks(project: Path, *requirements: str) -> Path:
    file = project / "pyproject.toml"
    file.write_text(
        file.read_text().replace("dependencies = []", f"dependencies = {json.dumps(requirements)}")
    )
    return project


@pytest.fixture
def with_petals(images: str, tmp_path: Path) -> Iterator[str]:
    """The tag of images with an app and the package that it asks for, built without an index."""
    tag = f"{images}-petals"
    make_wheel(tmp_path / "wheels", "petals", requires=["stems"])
    make_wheel(tmp_path / "wheels", "stems")
    project = _asks(make_app(tmp_path, "first", "import petals"), "petals>=1", "numpy")
    arguments = ["--app", str(project), "--tag", tag, "--wheels", str(tmp_path / "wheels")]
    environment = {**build_environment(images), "PIP_NO_INDEX": "1"}
    built = bouquet("image", *arguments, environment=environment, timeout=600)
    assert built.returncode == 0, built.stdout + built.stderr
    assert f"built bouquet-supernode:{tag}-cpu" in built.stdout
    yield tag
    docker("rmi", "--force", f"bouquet-superlink:{tag}", f"bouquet-supernode:{tag}-cpu")


def test_an_app_is_mounted_in_images_that_have_what_it_asks_for(with_petals: str, tmp_path: Path) -> None:
    """The app in APP goes before that of the images, and only its clients' own read-only data reaches it."""
    inside = ["run", "--rm", "--network", "none", f"bouquet-supernode:{with_petals}-cpu"]
    assert docker(*inside, "app-hash").strip() == bouquet("app-hash", str(tmp_path / "first")).stdout.strip()
    data = tmp_path / "data.csv"
    data.write_text("1,2")
    project = _asks(make_app(tmp_path, "second", CLIENT, SERVER), "petals>=1")
    stack = Stack(
        with_petals, {"NUM_CLIENTS": "2", "APP": str(project), "BOUQUET_DATASET": str(data), "DATASET": ""}
    )
    try:
        stack.compose("up", "--detach", timeout=300)
        assert stack.wait("train", timeout=300) == 0, stack.logs()
        told = [{"number": number, "data": "1,2"} for number in range(2)]
        assert stack.latest("artefacts/told.txt") == str(told)
        assert json.loads(stack.latest("summary.json"))["app"] == "tests/second"
        assert "no data set is prepared: the app in /foreign" in stack.logs("prepare")
        _asks_for_more = project / "pyproject.toml"
        _asks_for_more.write_text(_asks_for_more.read_text().replace("petals>=1", "thorns"))
        refused = stack.run("run", "--rm", "--no-deps", "--no-TTY", "train")
        assert (
            refused.returncode == 2
            and "the app asks for thorns, which is not installed here" in refused.stderr
        )
    finally:
        stack.remove()


def test_the_readmes_way_to_other_machines(images: str, tmp_path: Path) -> None:
    """Word by word, in a copy of what the commands read; the images are those of the tests."""
    names = [f"bouquet-superlink:{README_TAG}", f"bouquet-supernode:{README_TAG}-cpu"]
    for name in names:
        if subprocess.run(["docker", "image", "inspect", name], capture_output=True).returncode == 0:
            pytest.skip(f"{name} is here, and the README's command would replace it")
    for file in ("compose.yaml", ".env"):
        shutil.copy(ROOT / file, tmp_path)
    _, elsewhere = blocks("From your simulation to real machines")
    stack = Stack(README_TAG, {})
    try:
        with template_hub() as hub:
            follow("flwr new @flwrlabs/quickstart-numpy", tmp_path, hub, 60)
        (tmp_path / "results").mkdir()
        follow(elsewhere, tmp_path, {**stack.environment, "IMAGE_TAG": images}, 600)
        results = tmp_path / "results" / "latest"
        assert json.loads((results / "summary.json").read_text())["status"] == "completed"
        assert (results / "artefacts" / "final_model.npz").is_file()
    finally:
        stack.remove()
        subprocess.run(["docker", "rmi", "--force", *names], capture_output=True, timeout=300)
