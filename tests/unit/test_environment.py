"""A setting is read once: the command line wins over the environment, the environment over `.env`."""

import ast
import os
import re
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from app.environment import (
    ADDRESS,
    NUMBER,
    AppEnvironment,
    Device,
    is_whole,
    one_of,
    read,
    set_variables,
    setting,
    temporary_variables,
    whole,
)
from app.errors import UserError

APP = Path(__file__).resolve().parents[2] / "app"


@dataclass(frozen=True)
class Example:
    """Settings of every form."""

    count: int = setting("COUNT", "How many.", 7, whole(1, 9), ("--count", "-n"))
    word: str = setting("WORD", "Which.", "auto", one_of("auto", "fork"))
    share: float | None = setting("SHARE", "How much.", None, NUMBER)
    address: str = setting("ADDRESS", "Where.", "localhost:1", ADDRESS)
    gpus: str | None = setting("GPUS", "Which ones.", empty_counts=True)
    force: bool = setting("", "Whether.", False)


def test_the_command_line_wins_over_the_environment_and_that_over_dotenv() -> None:
    dotenv, environment = {"COUNT": "2", "WORD": "fork"}, {"COUNT": "3"}
    assert read(Example, environment={}) == Example()
    assert read(Example, environment={}, dotenv=dotenv) == Example(2, "fork")
    assert read(Example, environment=environment, dotenv=dotenv) == Example(3, "fork")
    assert read(Example, {"count": "4"}, environment=environment, dotenv=dotenv) == Example(4, "fork")


def test_an_empty_value_counts_as_not_set() -> None:
    environment = {"COUNT": "", "WORD": "", "SHARE": ""}
    assert read(Example, {"count": "", "word": None}, environment=environment) == Example()
    assert read(Example, environment={"COUNT": ""}, dotenv={"COUNT": "5"}).count == 5
    assert read(Example, environment={"GPUS": ""}).gpus == "", "where an empty value means none"
    assert read(Example, {"force": False}, environment={}) == Example()


@pytest.mark.parametrize("value", ["0", "10", "-1", "ten", "1.0", "²", "٣", " 3", "1_0", "+3", "9" * 30])
def test_what_is_no_whole_number_in_range_is_refused_by_name_with_the_range(value: str) -> None:
    said = f"={value!r} must be a whole number from 1 to 9"
    for given, environment, name in (({"count": value}, {}, "--count"), ({}, {"COUNT": value}, "COUNT")):
        with pytest.raises(UserError) as error:
            read(Example, given, environment=environment)
        assert str(error.value) == name + said
    with pytest.raises(UserError, match=r"^COUNT=.* in \.env must be a whole number"):
        read(Example, environment={}, dotenv={"COUNT": value})


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        ("WORD", "spoon", "must be one of auto, fork"),
        ("SHARE", "half", "must be a number"),
        ("SHARE", "nan", "must be a number"),
        ("SHARE", "1_0", "must be a number"),
        ("ADDRESS", "example.org", "must be host:port"),
        ("ADDRESS", "example.org:99999", "must be a whole number from 0 to 65535"),
    ],
)
def test_each_form_says_what_it_takes(variable: str, value: str, words: str) -> None:
    with pytest.raises(UserError, match=f"^{variable}='{value}' {words}"):
        read(Example, environment={variable: value})


def test_settings_are_frozen() -> None:
    with pytest.raises(AttributeError):
        read(Example, environment={}).count = 3  # type: ignore[misc]
    assert replace(Example(), count=3).count == 3


@pytest.mark.parametrize(
    ("text", "device"), [("cuda:3", Device("cuda", 3)), ("cuda", Device("cuda")), ("cpu", Device("cpu"))]
)
def test_a_device_is_read_and_written_alike(text: str, device: Device) -> None:
    assert Device.parse(text) == device and str(device) == text


@pytest.mark.parametrize("device", ["gpu", "cpu:0", "auto:1", "cuda:one", "cuda:", "cuda:²", "cuda:-1"])
def test_what_is_no_device_is_refused(device: str) -> None:
    with pytest.raises(UserError, match=f"BOUQUET_DEVICE='{device}' must be auto, cpu, cuda or cuda:N"):
        read(AppEnvironment, environment={"BOUQUET_DEVICE": device})


def test_the_apps_find_what_the_fleet_set() -> None:
    found = read(
        AppEnvironment, environment={"BOUQUET_DATA": "/data", "BOUQUET_RUN": "first", "BOUQUET_DEVICE": "cpu"}
    )
    assert found == AppEnvironment(Path("/data"), Path("results"), "first", "", None, Device("cpu"))


def test_variables_are_set_and_defaults_only_where_nothing_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EXAMPLE_A", "mine")
    monkeypatch.delenv("EXAMPLE_B", raising=False)
    with temporary_variables({"EXAMPLE_B": "for now"}):
        assert os.environ["EXAMPLE_B"] == "for now"
    assert "EXAMPLE_B" not in os.environ
    monkeypatch.setenv("EXAMPLE_B", "x")
    monkeypatch.delenv("EXAMPLE_B")
    set_variables({"EXAMPLE_B": "set"}, {"EXAMPLE_A": "default"})
    assert (os.environ["EXAMPLE_A"], os.environ["EXAMPLE_B"]) == ("mine", "set")


# Each with its reason.
OTHER_READERS = {
    "fleet/warm/confinement.py": "a part of warm/parent.py",
    "fleet/warm/parent.py": "a program of its own, which must not import this package before it is confined",
    "fleet/serverapp/run_folder.py": "a part of serverapp/program.py, a program of its own",
}


def test_one_module_reads_and_changes_the_environment() -> None:
    """A setting that is read deep inside the code is in no table, and has no clear error."""
    using = set()
    for file in APP.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            name = node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")
            if name in ("environ", "getenv", "putenv", "environb"):
                using.add(file.relative_to(APP).as_posix())
    assert using == {"environment.py", *OTHER_READERS}


def test_one_module_reads_whole_numbers() -> None:
    """``isdigit`` takes ``²``, ``isdecimal`` takes ``٣``."""
    assert [is_whole(text) for text in ("0", "12", "²", "٣", " 3", "1_0", "-1", "3\n", "")] == [True] * 2 + [
        False
    ] * 7
    files = [
        file for folder in ("app", "bench", "docker", ".ci") for file in (APP.parent / folder).rglob("*.py")
    ]
    using = [file.name for file in files if re.search(r"\.is(digit|decimal|numeric)\(", file.read_text())]
    assert len(files) > 100
    assert using == ["guard.py"], "which imports nothing of this package, and reads names in /proc"
