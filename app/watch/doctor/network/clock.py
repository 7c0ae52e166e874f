"""The clock of this host is that of the SuperLink, as near as Flower wants it."""

from app.watch.doctor.network.told import told
from app.watch.doctor.rule import CLIENT, Finding, Rule, good, wrong
from app.watch.doctor.site import Site

# Flower 1.39 refuses the calls of a node outside of these: common/constant.py, SYSTEM_TIME_TOLERANCE and TIMESTAMP_TOLERANCE.
MOST_AHEAD_S, MOST_BEHIND_S = 5, 300


def check(site: Site) -> Finding:
    """Compare both ends."""
    answer = told(site)
    if isinstance(answer, Finding):
        return answer
    ahead = answer.ahead_s
    shown = f"{abs(ahead):.1f} s {'ahead of' if ahead > 0 else 'behind'} the SuperLink's"
    if not -MOST_BEHIND_S < ahead < MOST_AHEAD_S:
        return wrong(
            f"this host's clock is {shown}",
            f"set it (NTP): it may run at most {MOST_AHEAD_S} s ahead and {MOST_BEHIND_S} s behind",
        )
    return good(shown)


RULE = Rule(
    name="clock",
    phase="network",
    promise="this host's clock is right",
    roles=frozenset({CLIENT}),
    check=check,
    needs=("settings", "certificate", "key", "enrolment"),
)
