"""The parts of the data store that the processes of a role read. It is no rule."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from app.errors import UserError
from app.fleet.host import partition_ids
from app.watch.doctor.rule import CLIENT, SERVER
from app.watch.doctor.site import Site

if TYPE_CHECKING:
    from app.learning.data.store import Split, Store


def open_store(site: Site) -> "Store | None":
    """The store of this site; None where none is named. Raises UserError for one that cannot be used."""
    from app.learning.data.store import Store

    return None if site.data is None else Store.open(site.data)


def splits(site: Site, store: "Store") -> "Iterator[tuple[str, Split]]":
    """Each part by its name, opened as training does it: to train on first. Raises UserError."""
    if site.role == SERVER:
        yield "test", store.test
        return
    clients = site.client.num_clients if site.role == CLIENT else site.clients_here
    for number in _ids(site, clients, store):
        partition = store.partition_for(number, clients)
        yield f"partition {number}", partition.train
        yield f"partition {number}, validation", partition.val
    if site.role != CLIENT:
        yield "test", store.test


def _ids(site: Site, clients: int, store: "Store") -> range:
    """The partitions that may be this client's: the one that it is given, else all."""
    if site.role == CLIENT:
        client = site.client
        try:
            given = partition_ids.resolve(
                client.num_clients, client.partition_id, client.pod_index, client.pod_name
            ).id
        except UserError:
            given = None  # it will lease one; a wrong one is told by its own rule
        if given is not None:
            return range(given, given + 1)
    return range(1 if store.manifest.partitioner == "none" else clients)
