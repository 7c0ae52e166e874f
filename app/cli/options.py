"""Commands whose options are the settings of a process, so that each setting is declared in one place only."""

import inspect
from collections.abc import Callable, Mapping
from typing import Annotated, Any, TypeVar

import typer

from app.environment import Setting, declared, options, read
from app.fleet.deployment import KINDS, dotenv

S = TypeVar("S")


def echo(line: str) -> None:
    """Print one line of progress."""
    print(line, flush=True)


def add_command(
    app: typer.Typer, function: Callable[[S], None], settings: type[S], *, example: str, words: str = ""
) -> None:
    """Add a command to ``bouquet``.

    Args:
        app: takes the command.
        function: is called with the settings that were read. Its name and docstring are the command's.
        settings: the class whose fields become the options.
        example: one command line, for the help.
        words: the field that takes the words after the options.
    """
    reads_dotenv = any(kind.settings is settings and kind.reads_dotenv for kind in KINDS)

    def run(**given: Any) -> None:
        function(read(settings, given, dotenv=dotenv() if reads_dotenv else {}))

    run.__name__, run.__doc__ = function.__name__, function.__doc__
    add_options(app, run, declared(settings), example=example, words=words)


def add_options(
    app: typer.Typer,
    run: Callable[..., None],
    wanted: Mapping[str, Setting],
    *,
    example: str,
    words: str = "",
) -> None:
    """Add a command that is called with the text of each option that was given, by the name of its field."""
    parameters = [_parameter(name, of) for name, of in wanted.items() if options(name, of)]
    if words:
        parameters.insert(0, _words(words, wanted[words]))
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    app.command(epilog=f"Example: {example}")(run)


def _parameter(name: str, of: Setting) -> inspect.Parameter:
    """The option for a setting: text that ``read`` will parse, or a flag."""
    flag = isinstance(of.default, bool)
    notes = [of.variable] if of.variable else []
    if of.default not in (None, "", False, frozenset(), ()):
        notes.append(f"default {of.default}")
    help_text = f"{of.meaning} ({', '.join(notes)})" if notes else of.meaning
    option = typer.Option(*options(name, of), help=help_text, metavar=None if flag else of.form.name)
    return inspect.Parameter(
        name,
        inspect.Parameter.KEYWORD_ONLY,
        default=False if flag else None,
        annotation=Annotated[bool if flag else str | None, option],
    )


def _words(name: str, of: Setting) -> inspect.Parameter:
    """The words after the options; at least one."""
    argument = typer.Argument(
        help=of.meaning, metavar=f"{name.removesuffix('s').upper()}...", show_default=False
    )
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=Annotated[list[str], argument])
