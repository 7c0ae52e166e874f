"""The identities of a federation whose server and clients share one host."""

import shutil
from collections.abc import Iterator
from pathlib import Path

from app.fleet.deployment import IdentitySettings
from app.fleet.identity.certificates import init_ca, issue_server
from app.fleet.identity.files import make_directory
from app.fleet.identity.keys import make_node_key


def make_identities(
    ca: Path, server: Path, keys: Path, public: Path, settings: IdentitySettings
) -> Iterator[str]:
    """Make a CA, a server certificate and a key per client; keep what exists. Yields a line for each.

    `public` gets public halves and the CA's certificate. Raises UserError.
    """
    yield init_ca(ca)
    yield issue_server(ca, settings.server_names, out=server)
    make_directory(keys)
    make_directory(public)
    shutil.copy(ca / "ca.crt", public)
    for partition in range(settings.num_clients):
        key = make_node_key(keys / f"{partition}.key", comment=f"client-{partition}")
        shutil.copy(key.public_path, public)
        if key.made:
            yield f"client-{partition}: {key.fingerprint}"
