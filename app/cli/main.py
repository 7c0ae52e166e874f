"""The command ``bouquet``: a table of contents over the package.

bouquet up            ten clients on this machine, as plain processes
bouquet superlink     the server of a federation
bouquet supernode     one client
bouquet train         submit a run and show its progress
bouquet queue         the runs that are under way or wait
bouquet evaluate      have every client evaluate a model
bouquet report        a page of a run: who took part, what was learned
"""

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.completion import completion_init, get_completion_script  # type: ignore[attr-defined]

from app.cli import data, identity, kubernetes, monitor, results, run, settings, tutorial, watch
from app.environment import variables
from app.errors import UserError

COMPLETE = "_BOUQUET_COMPLETE"


class Shell(StrEnum):
    """A shell that completes commands."""

    BASH = "bash"
    ZSH = "zsh"
    FISH = "fish"


app = typer.Typer(
    name="bouquet",
    help="Federated learning with Flower and PyTorch on real machines.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for group in (run, watch, results, monitor, data, tutorial, identity, kubernetes, settings):
    group.add_to(app)


def main() -> Any:
    """Run the command; a mistake the person can mend is one line and status 2."""
    if COMPLETE in variables():  # a shell asks how a line goes on
        completion_init()
    try:
        app()
    except UserError as error:
        print(f"error: {error}{_explained(error)}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)


def _explained(error: UserError) -> str:
    """Where the documents say more."""
    from app.watch.troubleshooting import entry

    found = entry(str(error))
    return f" ({found})" if found else ""


@app.command(epilog="Example: bouquet completion bash")
def completion(
    shell: Annotated[Shell | None, typer.Argument(help="Default: that of $SHELL.")] = None,
) -> None:
    """Print the shell's completion for bouquet.

    \b
    bash:  bouquet completion bash >~/.local/share/bash-completion/completions/bouquet
    zsh:   bouquet completion zsh >"${fpath[1]}/_bouquet"
    fish:  bouquet completion fish >~/.config/fish/completions/bouquet.fish
    """
    wanted = shell or Path(variables().get("SHELL", "")).name
    if wanted not in list(Shell):
        raise UserError(f"SHELL={wanted}: there is completion for {', '.join(Shell)}; name one of them")
    print(get_completion_script(prog_name="bouquet", complete_var=COMPLETE, shell=wanted))


if __name__ == "__main__":
    main()
