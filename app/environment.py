"""Settings from outside: a process reads each of them once, into a typed, frozen object.

A setting is declared once, as a field of a dataclass (one class for each kind of process). A value on the command
line wins over the environment, the environment over ``.env``, and ``.env`` over the default. An empty value counts
as not set. This module alone reads and changes ``os.environ``; ``fleet/warm/parent.py``, which imports nothing of this
package, is the exception.
"""

import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from app.errors import UserError

T = TypeVar("T")
LARGEST = 2**63 - 1


class Form(NamedTuple):
    """How the text of a value is read: its name in the help, and a function that raises ValueError(what it expects)."""

    name: str
    parse: Callable[[str], Any]


def is_whole(text: str) -> bool:
    """Whether ``text`` is a whole number in ASCII digits: ``isdigit`` also takes ``²`` and ``٣``."""
    return re.fullmatch(r"[0-9]{1,19}", text) is not None


def whole(least: int = 0, most: int = LARGEST) -> Form:
    """Whole numbers from ``least`` to ``most``, in ASCII digits: ``int`` also takes ``1_0``, `` 3`` and ``٣``."""
    span = f"from {least} to {most}" if most < LARGEST else f"of at least {least}"

    def parse(text: str) -> int:
        if is_whole(text.removeprefix("-")) and least <= int(text) <= most:
            return int(text)
        raise ValueError(f"a whole number {span}")

    return Form("INTEGER", parse)


def one_of(*words: str) -> Form:
    """One of these words."""

    def parse(text: str) -> str:
        if text in words:
            return text
        raise ValueError(f"one of {', '.join(words)}")

    return Form("|".join(words), parse)


def _number(text: str) -> float:
    try:
        if re.fullmatch(r"[-+.eE0-9]+", text):
            return float(text)
    except ValueError:
        pass
    raise ValueError("a number")


def _address(text: str) -> str:
    _, colon, port = text.rpartition(":")
    if colon:
        PORT.parse(port)
        return text
    raise ValueError("host:port, such as 127.0.0.1:9092")


def _control(text: str) -> str:
    if text.startswith(f"{UNIX}/"):
        return text
    try:
        return _address(text)
    except ValueError as error:
        raise ValueError(f"{error}, or unix:/FILE") from None


def _replies(text: str) -> int | float:
    if is_whole(text) and int(text):
        return int(text)
    try:
        if "." in text and 0 < (share := float(_number(text))) <= 1:
            return share
    except ValueError:
        pass
    raise ValueError("a number of clients, or a fraction of them such as 0.5")


def _seconds(text: str) -> float:
    if (seconds := _number(text)) > 0:
        return seconds
    raise ValueError("a number of seconds above 0")


TEXT = Form("TEXT", str)
PATH = Form("PATH", Path)
NUMBER = Form("NUMBER", _number)
REPLIES = Form("NUMBER|FRACTION", _replies)
SECONDS = Form("SECONDS", _seconds)
PORT = whole(0, 65535)
ADDRESS = Form("HOST:PORT", _address)
CONTROL = Form("HOST:PORT|unix:/FILE", _control)
WORDS = Form("WORDS", lambda text: tuple(re.findall(r"[^\s,]+", text)))


@dataclass(frozen=True)
class Setting:
    """One setting.

    Attributes:
        variable: its name in the environment and in ``.env``; empty for the command line only.
        meaning: one line for people.
        default: its value where none is given.
        form: how its value is read.
        options: its names on the command line; None for the field's own name, empty for none.
        empty_counts: whether an empty value is a value.
        former: a name that it had. Who still sets it is told, because a rule of security must not be ignored silently.
    """

    variable: str
    meaning: str
    default: Any = None
    form: Form = TEXT
    options: tuple[str, ...] | None = None
    empty_counts: bool = False
    former: str = ""


def setting(
    variable: str,
    meaning: str,
    default: Any = None,
    form: Form = TEXT,
    options: tuple[str, ...] | None = None,
    empty_counts: bool = False,
    former: str = "",
) -> Any:
    """A field of a settings class."""
    return field(
        default=default,
        metadata={"setting": Setting(variable, meaning, default, form, options, empty_counts, former)},
    )


def declared(kind: type) -> dict[str, Setting]:
    """The settings of a class, by the names of their fields."""
    return {f.name: f.metadata["setting"] for f in fields(kind)}


def options(name: str, of: Setting) -> tuple[str, ...]:
    """The names of a setting on the command line."""
    return (f"--{name.replace('_', '-')}",) if of.options is None else of.options


class Found(NamedTuple):
    """A value that was given: what it is, under which name, and where."""

    value: Any
    name: str
    place: str


def find(
    name: str,
    of: Setting,
    given: Mapping[str, Any],
    environment: Mapping[str, str],
    dotenv: Mapping[str, str],
) -> Found | None:
    """The value of a setting that counts, before it is read; None where only the default is left."""
    value = given.get(name)
    if not (value is None or value is False or value == ""):
        return Found(value, (*options(name, of), name)[0], "command line")
    for place, variables in (("environment", environment), (".env", dotenv)):
        value = variables.get(of.variable) if of.variable else None
        if value or (value is not None and of.empty_counts):
            return Found(value, of.variable, place)
    return None


def read(
    kind: type[T],
    given: Mapping[str, Any] | None = None,
    *,
    environment: Mapping[str, str] | None = None,
    dotenv: Mapping[str, str] | None = None,
) -> T:
    """Read the settings of one kind of process.

    Args:
        kind: the class that declares them.
        given: values from the command line, by field; None stands for not given.
        environment: default: that of this process.
        dotenv: the variables of ``.env``.

    Raises:
        UserError: a value cannot be used, in one line that names it and says what can.
    """
    values = {}
    variables = os.environ if environment is None else environment
    for name, of in declared(kind).items():
        if of.former and (variables.get(of.former) or (dotenv or {}).get(of.former)):
            raise UserError(f"{of.former} is called {of.variable} now: rename it, or take it out")
        found = find(name, of, given or {}, variables, dotenv or {})
        if found is None:
            continue
        try:
            values[name] = of.form.parse(found.value) if isinstance(found.value, str) else found.value
        except ValueError as error:
            where = " in .env" if found.place == ".env" else ""
            raise UserError(f"{found.name}={found.value!r}{where} must be {error}") from None
    return kind(**values)


def variables() -> Mapping[str, str]:
    """The variables of this process."""
    return os.environ


def with_variables(variables: Mapping[str, str]) -> dict[str, str]:
    """The environment of a child: this process's with ``variables`` in it."""
    return {**os.environ, **variables}


def set_variables(variables: Mapping[str, str], defaults: Mapping[str, str] | None = None) -> None:
    """Set what libraries and children of this process must find; ``defaults`` only where nothing is set."""
    os.environ.update({k: v for k, v in (defaults or {}).items() if k not in os.environ} | dict(variables))


@contextmanager
def temporary_variables(variables: Mapping[str, str]) -> Iterator[None]:
    """Set variables for the body of a ``with``, and put back what was there before."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def quiet_flower() -> None:
    """Have Flower neither report its use nor look for new versions."""
    set_variables({}, {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1"})


@dataclass(frozen=True)
class Device:
    """What BOUQUET_DEVICE names: ``auto`` (a GPU where there is one), ``cpu``, ``cuda`` or ``cuda:N``."""

    kind: str = "auto"
    number: int | None = None

    @classmethod
    def parse(cls, text: str) -> "Device":
        """Read the value of BOUQUET_DEVICE. Raises ValueError with what it may be."""
        kind, colon, number = text.partition(":")
        try:
            if kind in ("auto", "cpu", "cuda") and (not colon or kind == "cuda"):
                return cls(kind, whole().parse(number) if colon else None)
        except ValueError:
            pass
        raise ValueError("auto, cpu, cuda or cuda:N")

    def __str__(self) -> str:
        return self.kind if self.number is None else f"{self.kind}:{self.number}"

    def choose(self, gpus: int, partition: int) -> int | None:
        """The GPU of one client among ``gpus`` visible ones: the one named, else round-robin by partition id.

        Returns None for the CPU.

        Raises:
            UserError: the GPU asked for is not there.
        """
        if self.kind == "cpu" or (self.kind == "auto" and gpus == 0):
            return None
        index = partition % max(gpus, 1) if self.number is None else self.number
        if index >= gpus:
            raise UserError(f"BOUQUET_DEVICE={self}: {gpus} GPUs are visible; use cpu or auto")
        return index


DEVICE = Form("auto|cpu|cuda|cuda:N", Device.parse)
DATA_VARIABLE = "BOUQUET_DATA"
RESULTS_VARIABLE = "BOUQUET_RESULTS"
UNIX = "unix:"  # before the path of a socket, in an address
DRAIN = ".drain"  # a file in the results folder; where it is, no round is begun
PATCHES_MEANING = "Patches of Flower to switch off: -long-polls,-warm, or -all (`bouquet patches`)."


@dataclass(frozen=True)
class AppEnvironment:
    """What the two apps find in the environment of the processes that Flower starts for them."""

    data: Path | None = setting(DATA_VARIABLE, "Folder of the prepared data.", None, PATH)
    results: Path = setting(RESULTS_VARIABLE, "Folder of all results.", Path("results"), PATH)
    run: str = setting("BOUQUET_RUN", "Name of the run's folder; empty for date, time and run id.", "")
    mode: str = setting("BOUQUET_MODE", "How the federation was started; stands in the results.", "")
    members: Path | None = setting(
        "BOUQUET_MEMBERS", "File with the names of the enrolled clients.", None, PATH
    )
    device: Device = setting("BOUQUET_DEVICE", "Where a client trains.", Device(), DEVICE)
    patches: str = setting("BOUQUET_PATCHES", PATCHES_MEANING, "")
