"""There is memory for what is started here: within the limit of the container, and on the machine."""

from app.fleet.host.memory import available_memory
from app.watch.doctor.machine.folders import MIB
from app.watch.doctor.rule import ALL, CLIENT, SERVER, Finding, Rule, good, wrong
from app.watch.doctor.site import Site

# The tutorial's CNN with the CUDA build of PyTorch, idle (docs/performance.md), and room to work. Larger models take more.
SERVER_BYTES = 768 * MIB
CLIENT_BYTES = 512 * MIB
NEXT_CLIENT_BYTES = 112 * MIB  # the plain processes of one machine share what they have imported


def needed(site: Site) -> int:
    """Bytes for the processes of the site's role."""
    clients = site.clients_here
    sharing = CLIENT_BYTES + (clients - 1) * NEXT_CLIENT_BYTES if clients else 0
    return sharing + (0 if site.role == CLIENT else SERVER_BYTES)


def check(site: Site) -> Finding:
    """Compare what is left with what the smallest model takes."""
    memory, least = available_memory(), needed(site)
    whose = "the machine" if memory.bound == "machine" else f"the limit of {memory.bound}"
    if memory.free < least:
        lower = " or start fewer clients (NUM_CLIENTS)" if site.role == ALL else ""
        return wrong(
            f"{memory.free // MIB} MiB are left of {whose}, and even a small model needs {least // MIB} MiB",
            f"raise the limit (SUPERLINK_MEMORY, SUPERNODE_MEMORY), end other programs{lower}",
        )
    return good(f"{memory.free // MIB:,} MiB are left of {whose}, {least // MIB:,} MiB are needed")


RULE = Rule(
    name="memory",
    phase="machine",
    promise="there is memory for a small model",
    roles=frozenset({SERVER, CLIENT, ALL}),
    check=check,
    required=False,
    quick=True,
    at_start=True,
)
