"""The commands for what runs have left, where they meet a person."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from app.cli import results
from app.cli.main import app


def test_a_report_that_fails_is_a_warning_at_the_end_of_a_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results.report_latest(tmp_path, None)
    said = capsys.readouterr()
    assert said.err.startswith("warning: the run has no report: there is no run 'latest'") and not said.out
    assert said.err.count("\n") == 1


@pytest.mark.parametrize("command", [["report"], ["compare", "a", "b"], ["predict", "cat.png"], ["export"]])
def test_a_run_that_is_not_there_is_named(tmp_path: Path, command: list[str]) -> None:
    done = CliRunner().invoke(app, [*command, "--results", str(tmp_path)])
    assert done.exit_code == 1 and str(done.exception).startswith("there is no run "), done


@pytest.mark.parametrize("command", ["compare", "predict"])
def test_nothing_to_look_at_is_wrong_input(command: str) -> None:
    assert CliRunner().invoke(app, [command]).exit_code == 2
