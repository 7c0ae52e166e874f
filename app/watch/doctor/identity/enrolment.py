"""The SuperLink knows this client's key."""

from app.fleet.identity.keys import fingerprint, load_node_key
from app.watch.doctor.network.told import told
from app.watch.doctor.rule import CLIENT, Finding, Rule, good, skipped, wrong
from app.watch.doctor.site import Site


def check(site: Site) -> Finding:
    """See whether the TLS handshake lets it in, and ask under which name."""
    client = site.client
    if client.ca is None or client.key is None:
        return skipped("--insecure: the SuperLink has no members")
    if not site.door.lets_in:
        shown = fingerprint(load_node_key(client.key)[1])
        return wrong(
            f"the SuperLink refuses this client: its key {shown} is not enrolled, or was revoked",
            f"send {client.key}.pub to the server's operator, who runs `bouquet enroll NAME KEY.pub`",
        )
    answer = told(site)
    return answer if isinstance(answer, Finding) else good(f"as {answer.name}")


RULE = Rule(
    name="enrolment",
    phase="identity",
    promise="the SuperLink knows this client's key",
    roles=frozenset({CLIENT}),
    check=check,
    needs=("settings", "key", "certificate"),
)
