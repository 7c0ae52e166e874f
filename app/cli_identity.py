"""The commands of identity: keys and certificates, who belongs, and what may run."""

import os
from pathlib import Path
from typing import Annotated

import typer

from app.errors import UserError

pki = typer.Typer(no_args_is_help=True, help="The federation's CA and the server's certificate.")

Directory = Annotated[
    Path, typer.Option("--dir", envvar="BOUQUET_PKI", help="Folder of the CA: ca.key, ca.crt.")
]
Out = Annotated[
    Path | None,
    typer.Option(envvar="BOUQUET_CERTIFICATES", help="Where the server finds its files; default --dir."),
]
Control = Annotated[str, typer.Option("--control-address", help="host:port of the SuperLink's Control API.")]
Ca = Annotated[Path | None, typer.Option(envvar="BOUQUET_CA", help="The federation's ca.crt.")]
CONTROL = "127.0.0.1:8000"


@pki.command()
def init(directory: Directory = Path("pki")) -> None:
    """Make a private CA; one that is there is kept."""
    from app.fleet.certificates import init_ca

    print(init_ca(directory))


@pki.command()
def server(
    directory: Directory = Path("pki"),
    name: Annotated[
        list[str] | None, typer.Option(help="Host name or address that clients dial; repeat for more.")
    ] = None,
    out: Out = None,
) -> None:
    """Make the server's certificate for the names that clients dial."""
    from app.fleet.certificates import issue_server

    print(issue_server(directory, [*(name or []), *os.environ.get("SERVER_NAMES", "").split()], out=out))


@pki.command()
def renew(directory: Directory = Path("pki"), out: Out = None) -> None:
    """Replace the server's certificate by a new one for the same names; clients need nothing."""
    from app.fleet.certificates import renew_server

    print(renew_server(directory, out=out))


def node_key(
    path: Annotated[Path, typer.Argument(envvar="BOUQUET_NODE_KEY", help="File of the private key.")] = Path(
        "node.key"
    ),
) -> None:
    """Make this client's key where it will be used; print the public half and its fingerprint."""
    from app.fleet.keys import make_node_key

    key = make_node_key(path)
    print(f"{key.path}: {'made' if key.made else 'kept'}; send {key.public_path} to the server's operator")
    print(key.public_text)
    print(key.fingerprint)


def enroll(
    name: Annotated[str, typer.Argument(help="Name of the client.")],
    key: Annotated[Path, typer.Argument(help="Its public key, KEY.pub.")],
    control: Control = CONTROL,
    ca: Ca = None,
) -> None:
    """Let a client in: register its public key on the running SuperLink."""
    from app.fleet import members

    print(members.enroll(name, key, members.Connection(control, ca)))


def revoke(
    name: Annotated[str, typer.Argument(help="Name of the client.")],
    control: Control = CONTROL,
    ca: Ca = None,
) -> None:
    """Throw a client out, also while it is connected."""
    from app.fleet import members

    print(members.revoke(name, members.Connection(control, ca)))


def list_members(control: Control = CONTROL, ca: Ca = None) -> None:
    """List the clients that belong: name, fingerprint, whether online, last seen."""
    from app.fleet import members

    print(members.table(members.members(members.Connection(control, ca))))


def app_hash(
    project: Annotated[str, typer.Argument(envvar="BOUQUET_PROJECT", help="Folder of the Flower app.")] = "",
) -> None:
    """Print the hash of the app that a run would send, for a client's BOUQUET_ALLOWED_APPS."""
    from app.fleet.apps import app_hash as hash_of
    from app.fleet.submit import project_folder

    print(hash_of(project_folder(project)))


def check_transport(insecure: bool, given: Path | None, setting: str) -> None:
    """Refuse neither and both of plaintext and a certificate."""
    if insecure == (given is not None):
        raise UserError(f"give either {setting}, or --insecure for loopback and tests")


def add_to(app: typer.Typer) -> None:
    """Add these commands to ``bouquet``."""
    app.add_typer(pki, name="pki")
    app.command("node-key")(node_key)
    app.command()(enroll)
    app.command()(revoke)
    app.command("members")(list_members)
    app.command("app-hash")(app_hash)
