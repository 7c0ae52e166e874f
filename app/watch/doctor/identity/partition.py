"""This client's partition id is one of the federation's, and free where that can be seen."""

from app.fleet.host import partition_ids
from app.watch.doctor.rule import CLIENT, Finding, Rule, good, mistake
from app.watch.doctor.site import Site


def check(site: Site) -> Finding:
    """Find the id as the SuperNode does, and take no lease."""
    client = site.client
    if client.partition_id or client.pod_index or client.pod_name or client.leases is None:
        found = partition_ids.resolve(
            client.num_clients, client.partition_id, client.pod_index, client.pod_name
        )
        return good(f"{found.id} of {client.num_clients} (from {found.source})")
    free = partition_ids.free_ids(client.leases, client.num_clients)
    if not free:
        return mistake(partition_ids.none_free(client.leases, client.num_clients))
    return good(f"{len(free)} of {client.num_clients} are free")


RULE = Rule(
    name="partition",
    phase="identity",
    promise="the partition id is one of the federation's, and free",
    roles=frozenset({CLIENT}),
    check=check,
    quick=True,
)
