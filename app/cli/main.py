"""The command ``bouquet``: a table of contents over the package.

bouquet up            ten clients on this machine, as plain processes
bouquet superlink     the server of a federation
bouquet supernode     one client
bouquet train         submit a run and show its progress
bouquet queue         the runs that are under way or wait
bouquet evaluate      have every client evaluate a model
"""

import sys
from typing import Any

import typer

from app.cli import data, identity, kubernetes, run, settings, tutorial, watch
from app.errors import UserError

app = typer.Typer(
    name="bouquet",
    help="Federated learning with Flower and PyTorch on real machines.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for group in (run, watch, data, tutorial, identity, kubernetes, settings):
    group.add_to(app)


def main() -> Any:
    """Run the command; a mistake the person can mend is one line and status 2."""
    try:
        app()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
