"""The first step of a process: the quick rules whose mistakes it would not find by itself. Silent where all is good."""

from collections.abc import Callable

from app.watch.doctor.examine import examine
from app.watch.doctor.report import as_warning
from app.watch.doctor.rule import WRONG
from app.watch.doctor.rules import RULES
from app.watch.doctor.site import Site


def look(site: Site, echo: Callable[[str], None]) -> None:
    """Say what is wrong here, a line each. The process starts all the same: it may know better."""
    for check in examine(site, RULES, lambda rule: rule.at_start):
        if check.finding.result == WRONG:
            echo(as_warning(check))
