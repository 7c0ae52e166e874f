"""`bouquet settings` lists every setting, and every command says what it takes."""

import json
from pathlib import Path

import pytest
import typer.main
from click import Command, Context, Group
from typer.testing import CliRunner

from app.cli.main import app
from app.cli.settings import rows, unknown
from app.environment import declared
from app.fleet import deployment
from app.fleet.deployment import KINDS

KNOWN = {of.variable for kind in KINDS for of in declared(kind.settings).values() if of.variable}


def commands(group: Group) -> list[tuple[str, Command]]:
    """All commands of `bouquet`, with those of its groups."""
    found: list[tuple[str, Command]] = []
    for name, command in group.commands.items():
        found += commands(command) if isinstance(command, Group) else [(name, command)]
    return found


GROUP = typer.main.get_command(app)
assert isinstance(GROUP, Group)
COMMANDS = commands(GROUP)


def test_the_table_says_what_is_set_and_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".env").write_text("NUM_CLIENTS=4\nROUNDS=2\nROUNDZ=3\n")
    monkeypatch.setattr(deployment, "PACKAGE", tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ROUNDS", "7")
    done = CliRunner().invoke(app, ["settings", "--json"])
    assert done.exit_code == 0, done.output
    answer = json.loads(done.stdout)
    assert answer["schema_version"] == 1
    by_name = {row["variable"]: row for row in answer["settings"] if row["variable"]}
    assert by_name.keys() == KNOWN
    assert (by_name["NUM_CLIENTS"]["value"], by_name["NUM_CLIENTS"]["place"]) == ("4", ".env")
    assert (by_name["ROUNDS"]["value"], by_name["ROUNDS"]["place"]) == ("7", "environment")
    assert by_name["NUM_CLIENTS"]["default"]["supernode"] == "1"
    assert by_name["DATASET"]["value"] is None
    assert answer["unknown"] == [".env: there is no setting ROUNDZ; did you mean ROUNDS?"]
    table = CliRunner().invoke(app, ["settings"], env={"COLUMNS": "200"})
    assert "4 (.env)" in table.stdout and "did you mean ROUNDS?" in table.stdout


def test_a_daemon_takes_nothing_from_dotenv() -> None:
    (row,) = [row for row in rows({}, {"SUPERLINK": "elsewhere:1"}) if row.variable == "SUPERLINK"]
    assert row.value is None
    assert unknown({"SUPERLINK": "elsewhere:1"}, [row]) == []


@pytest.mark.parametrize("name", [kind.name for kind in KINDS if kind.has_options])
def test_the_help_names_each_variable_and_its_default(name: str) -> None:
    (kind,) = [kind for kind in KINDS if kind.name == name]
    done = CliRunner().invoke(app, [name, "--help"], env={"COLUMNS": "240"})
    assert done.exit_code == 0 and "Example: bouquet " + name in done.stdout
    for of in declared(kind.settings).values():
        if of.variable and of.options != ():
            assert of.variable in done.stdout


@pytest.mark.parametrize(("name", "command"), COMMANDS, ids=[name for name, _ in COMMANDS])
def test_the_help_of_every_command_has_an_example(name: str, command: Command) -> None:
    assert command.epilog and command.epilog.startswith("Example: bouquet ") and name in command.epilog


def test_every_variable_that_a_command_reads_is_a_setting() -> None:
    read = {
        parameter.envvar
        for _, command in COMMANDS
        for parameter in command.get_params(Context(command))
        if parameter.envvar
    }
    assert read <= KNOWN


def test_a_wrong_value_is_one_line_and_status_two(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from app.cli.main import main

    for arguments, words in (
        (["up", "--clients", "²"], "error: --clients='²' must be a whole number of at least 1"),
        (["superlink"], "error: give either --certificates"),
        (["prepare", "--tolerance", "-1"], "error: --tolerance='-1' must be a whole number of at least 0"),
    ):
        monkeypatch.setattr("sys.argv", ["bouquet", *arguments])
        with pytest.raises(SystemExit) as status:
            main()
        said = capsys.readouterr().err
        assert status.value.code == 2 and said.startswith(words) and said.count("\n") == 1
