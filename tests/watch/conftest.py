"""Fixtures of what people look at."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from identity_site import Site

from app.fleet.identity import certificates, keys, members


@pytest.fixture(scope="module")  # other files look whether a process has stayed
def federation(tmp_path_factory: pytest.TempPathFactory, small_store: Path) -> Iterator[Site]:
    """A SuperLink with data and one member, hospital-a, whose key is ``node.key`` in its folder."""
    folder = tmp_path_factory.mktemp("federation")
    certificates.init_ca(folder / "pki")
    certificates.issue_server(folder / "pki")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BOUQUET_DATA", str(small_store))
        site = Site(folder, folder / "pki")
    try:
        pair = keys.make_node_key(folder / "node.key")
        members.enroll("hospital-a", pair.public_path, site.ready().connection)
        yield site
    finally:
        site.stop()
