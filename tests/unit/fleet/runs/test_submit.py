"""What is submitted fits the number of clients, and a mistake is said before anything starts."""

from pathlib import Path

import pytest

from app.errors import UserError
from app.fleet.deployment import PACKAGE
from app.fleet.runs.submit import project_folder, run_config_for

ROOT = Path(__file__).resolve().parents[4]


COUNTING = ROOT / "tests" / "federation" / "apps" / "counting"


def test_the_tutorials_minima_are_scaled_to_the_number_of_clients() -> None:
    assert run_config_for(ROOT, 10, None, "") == {
        "min-available-nodes": 10,
        "min-train-nodes": 10,
        "min-evaluate-nodes": 5,
    }
    assert run_config_for(ROOT, 3, 7, "")["min-evaluate-nodes"] == 1
    assert run_config_for(ROOT, 1, 7, "") == {
        "min-available-nodes": 1,
        "min-train-nodes": 1,
        "min-evaluate-nodes": 1,
        "num-server-rounds": 7,
    }


def test_a_fraction_that_was_asked_for_is_not_overruled_by_a_derived_minimum() -> None:
    values = run_config_for(ROOT, 10, None, "fraction-train=0.3")
    assert values["min-train-nodes"] == 3 and values["min-available-nodes"] == 10
    assert run_config_for(ROOT, 10, None, "fraction-train=0.3 min-train-nodes=4")["min-train-nodes"] == 4


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ("batch-sise=3", "did you mean 'batch-size'"),
        ("batch-size=0", "at least 1"),
        ("min-train-nodes=11", "raise NUM_CLIENTS"),
        ("strategy='fedsgd'", "fedavg"),
        ("batch-size", "key=value"),
    ],
)
def test_a_mistake_in_the_config_names_the_key(config: str, words: str) -> None:
    with pytest.raises(UserError, match=words) as caught:
        run_config_for(ROOT, 10, None, config)
    assert "\n" not in str(caught.value)


def test_another_app_gets_only_the_keys_it_has() -> None:
    assert run_config_for(COUNTING, 10, None, "messages=2") == {"messages": 2}
    with pytest.raises(
        UserError, match="its keys are end-in-reply-at, fail-at, learn, messages, nodes, sleep"
    ):
        run_config_for(COUNTING, 10, None, "message=2")


def test_rounds_that_an_app_does_not_know_are_not_ignored() -> None:
    with pytest.raises(UserError, match=r"--rounds \(ROUNDS\): this app has no key num-server-rounds"):
        run_config_for(COUNTING, 10, 5, "")


def test_only_a_folder_with_a_flower_app_is_taken_for_the_app(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pyproject.toml").write_text("[project]\nname='x'\n[tool.ruff]\n")
    assert project_folder() == PACKAGE
    (tmp_path / "pyproject.toml").write_text("[project]\nname='x'\n[tool.flwr.app]\npublisher='x'\n")
    assert project_folder() == tmp_path


def test_an_app_that_is_called_as_ours_is_still_another(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text(
        '[project]\nname = "other"\nversion = "1.0.0"\n[tool.flwr.app]\npublisher = "someone"\n'
        '[tool.flwr.app.components]\nserverapp = "app.server_app:app"\nclientapp = "app.client_app:app"\n'
        "[tool.flwr.app.config]\nlr = 0.1\n"
    )
    assert run_config_for(tmp_path, 2, None, "lr=0.2") == {"lr": 0.2}


def test_a_folder_without_an_app_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no pyproject\.toml"):
        run_config_for(tmp_path, 10, None, "")
    (tmp_path / "pyproject.toml").write_text("[project]\nname='x'\n")
    with pytest.raises(UserError, match="not that of a Flower app"):
        run_config_for(tmp_path, 10, None, "")
