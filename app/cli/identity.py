"""The commands of identity: keys and certificates, who belongs, and what may run."""

from pathlib import Path
from typing import Annotated

import typer

from app.environment import CONTROL as CONTROL_FORM
from app.environment import read, whole
from app.fleet.control import Connection
from app.fleet.deployment import CLIENTS_OPTIONS, IdentitySettings

pki = typer.Typer(no_args_is_help=True, help="The federation's CA and the server's certificate.")

Directory = Annotated[
    Path, typer.Option("--dir", envvar="BOUQUET_PKI", help="Folder of the CA: ca.key, ca.crt.")
]
Out = Annotated[
    Path | None,
    typer.Option(envvar="BOUQUET_CERTIFICATES", help="Where the server finds its files; default --dir."),
]
Control = Annotated[
    str,
    typer.Option(
        "--control-address", envvar="BOUQUET_CONTROL", parser=CONTROL_FORM.parse, metavar=CONTROL_FORM.name,
        help="Where the SuperLink's Control API is.",
    ),
]  # fmt: skip
Ca = Annotated[Path | None, typer.Option(envvar="BOUQUET_CA", help="The federation's ca.crt.")]
CONTROL = "127.0.0.1:8000"


@pki.command(epilog="Example: bouquet pki init --dir pki")
def init(directory: Directory = Path("pki")) -> None:
    """Make a private CA; one that is there is kept."""
    from app.fleet.identity.certificates import init_ca

    print(init_ca(directory))


@pki.command(epilog="Example: bouquet pki server --dir pki --name fl.example.org --out server")
def server(
    directory: Directory = Path("pki"),
    name: Annotated[
        list[str] | None, typer.Option(help="Host name or address that clients dial; repeat for more.")
    ] = None,
    out: Out = None,
) -> None:
    """Make the server's certificate for the names that clients dial."""
    from app.fleet.identity.certificates import issue_server

    print(issue_server(directory, [*(name or []), *read(IdentitySettings).server_names], out=out))


@pki.command(epilog="Example: bouquet pki renew --dir pki --out server")
def renew(directory: Directory = Path("pki"), out: Out = None) -> None:
    """Replace the server's certificate by a new one for the same names; clients need nothing."""
    from app.fleet.identity.certificates import renew_server

    print(renew_server(directory, out=out))


@pki.command("all", epilog="Example: bouquet pki all --dir pki --out server --keys keys --public public")
def make_all(
    keys: Annotated[Path, typer.Option(help="Folder of the clients' private keys, <partition id>.key.")],
    public: Annotated[Path, typer.Option(help="Folder of the public keys, for `bouquet enroll-all`.")],
    directory: Directory = Path("pki"),
    out: Out = None,
    clients: Annotated[
        str | None, typer.Option(*CLIENTS_OPTIONS, help="Number of clients (NUM_CLIENTS).")
    ] = None,
) -> None:
    """Make what the federation of one host needs: a CA, the server's certificate, a key per client.

    What exists is kept, so a second start changes nothing.
    """
    from app.fleet.identity.host import make_identities

    settings = read(IdentitySettings, {"num_clients": clients})
    for line in make_identities(directory, out or directory, keys, public, settings):
        print(line)


@pki.command("hand-out", epilog="Example: bouquet pki hand-out --keys keys --leases leases")
def hand_out(
    keys: Annotated[Path, typer.Option(help="Folder of the clients' private keys, <partition id>.key.")],
    leases: Annotated[
        Path,
        typer.Option(envvar="BOUQUET_LEASES", help="Folder that the clients share; keys.sock appears there."),
    ],
) -> None:
    """Hand each client of this host its own key, as it asks for it (BOUQUET_NODE_KEY=leases/keys.sock)."""
    from app.fleet.identity.hand_out import hand_out as serve

    serve(keys, leases, leases / "keys.sock")


def node_key(
    path: Annotated[Path, typer.Argument(envvar="BOUQUET_NODE_KEY", help="File of the private key.")] = Path(
        "node.key"
    ),
) -> None:
    """Make this client's key where it will be used; print the public half and its fingerprint."""
    from app.fleet.identity.keys import make_node_key

    key = make_node_key(path)
    print(f"{key.path}: {'made' if key.made else 'kept'}; send {key.public_path} to the server's operator")
    print(key.public_text)
    print(key.fingerprint)


def control_connection(control: str, ca: Path | None) -> Connection:
    """The Control API. Where the server's own files are, as in its container, the CA is known."""
    own = read(IdentitySettings).certificates
    return Connection(control, ca or (own / "ca.crt" if own is not None else None))


def enroll(
    name: Annotated[str, typer.Argument(help="Name of the client.")],
    key: Annotated[Path, typer.Argument(help="Its public key, KEY.pub.")],
    max_examples: Annotated[
        int | None,
        typer.Option(
            parser=whole(1).parse,
            metavar="INTEGER",
            help="Most training examples that it may claim; default: no bound of its own.",
        ),
    ] = None,
    control: Control = CONTROL,
    ca: Ca = None,
) -> None:
    """Let a client in: register its public key on the running SuperLink."""
    from app.fleet.identity import members

    print(members.enroll(name, key, control_connection(control, ca), max_examples=max_examples))


def enroll_all(
    folder: Annotated[Path, typer.Argument(help="Folder of public keys, NAME.pub.")],
    control: Control = CONTROL,
    ca: Ca = None,
) -> None:
    """Let in every client whose public key stands in a folder; waits for the SuperLink to start."""
    from app.fleet.identity import members
    from app.fleet.runs.submit import CONNECT_TIMEOUT_S, wait_for_control_api

    wait_for_control_api(control, CONNECT_TIMEOUT_S)
    for line in members.enroll_directory(folder, control_connection(control, ca)):
        print(line)


def revoke(
    name: Annotated[str, typer.Argument(help="Name of the client.")],
    control: Control = CONTROL,
    ca: Ca = None,
) -> None:
    """Throw a client out, also while it is connected."""
    from app.fleet.identity import members

    print(members.revoke(name, control_connection(control, ca)))


def list_members(control: Control = CONTROL, ca: Ca = None) -> None:
    """List the clients that belong: name, fingerprint, whether online, last seen."""
    from app.fleet.identity import members

    print(members.table(members.members(control_connection(control, ca))))


def app_hash(
    given: Annotated[
        str, typer.Argument(metavar="[APP]", envvar="APP", help="The Flower app: a folder or a .fab.")
    ] = "",
) -> None:
    """Print the hash of the app that a run would send, for a client's BOUQUET_ALLOWED_APPS."""
    from app.fleet.runs.bundle import app_hash as hash_of
    from app.fleet.runs.submit import project_folder

    print(hash_of(project_folder(given)))


def add_to(app: typer.Typer) -> None:
    """Add these commands to ``bouquet``."""
    app.add_typer(pki, name="pki")
    app.command("node-key", epilog="Example: bouquet node-key node.key")(node_key)
    app.command(epilog="Example: bouquet enroll hospital-a hospital-a.pub --ca server/ca.crt")(enroll)
    app.command("enroll-all", epilog="Example: bouquet enroll-all clients --ca server/ca.crt")(enroll_all)
    app.command(epilog="Example: bouquet revoke hospital-a --ca server/ca.crt")(revoke)
    app.command("members", epilog="Example: bouquet members --ca server/ca.crt")(list_members)
    app.command("app-hash", epilog="Example: bouquet app-hash .")(app_hash)
