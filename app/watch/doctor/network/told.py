"""What the SuperLink told this client, or a finding where there is no telling. It is no rule."""

from typing import TYPE_CHECKING

from app.errors import UserError
from app.fleet.identity import hand_out
from app.watch.doctor.rule import Finding, mistake, skipped
from app.watch.doctor.site import Site

if TYPE_CHECKING:
    from app.fleet.fleet_api.about import Answer


def told(site: Site) -> "Answer | Finding":
    """Ask once; a client that gets its key with its lease cannot ask before it starts."""
    key = site.client.key
    if key is not None and key.suffix == hand_out.SUFFIX:
        return skipped("the key to ask with is handed out when the client starts")
    answer = site.answer
    return mistake(answer) if isinstance(answer, UserError) else answer
