"""The folders that the processes of a role write to. It is no rule."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from app.fleet.deployment import SuperLinkSettings, SuperNodeSettings
from app.watch.doctor.rule import CLIENT
from app.watch.doctor.site import Site

MIB = 1 << 20


class Folder(NamedTuple):
    """A folder that is written to, the setting that names it, and the bytes that should be free there."""

    setting: str
    path: Path
    needs: int

    @property
    def existing(self) -> Path:
        """The folder, or the nearest one above it that is there."""
        path = self.path.absolute()
        return next(each for each in (path, *path.parents) if each.exists())


def folders(site: Site) -> Iterator[Folder]:
    """The folders of the site's role."""
    settings = site.own
    yield Folder("TMPDIR", Path(tempfile.gettempdir()), 64 * MIB)
    if site.role != CLIENT:
        # A run of the largest models keeps two checkpoints of three models each.
        yield Folder("BOUQUET_RESULTS", site.results, 256 * MIB)
    if isinstance(settings, SuperLinkSettings):
        if settings.state is not None:
            yield Folder("BOUQUET_STATE", settings.state, 16 * MIB)
        if settings.control_socket is not None:
            yield Folder("BOUQUET_CONTROL", settings.control_socket.parent, 0)
    if isinstance(settings, SuperNodeSettings):
        # The images name a folder for leases, and a client that is given its partition id takes none.
        given = settings.partition_id or settings.pod_index or settings.pod_name
        if settings.leases is not None and not given:
            yield Folder("BOUQUET_LEASES", settings.leases, 0)
