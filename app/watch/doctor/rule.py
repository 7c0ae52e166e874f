"""The shape of a rule, and of what it finds."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from app.errors import UserError

if TYPE_CHECKING:
    from app.watch.doctor.site import Site

GOOD, WRONG, UNREACHABLE, SKIPPED = "good", "wrong", "unreachable", "skipped"
SERVER, CLIENT, ALL = "server", "client", "all"
PHASES = ("machine", "engine", "network", "identity", "data", "gpu")
DOCS = "docs/troubleshooting.md#doctor-"


@dataclass(frozen=True)
class Finding:
    """What a rule found.

    Attributes:
        result: good, wrong, unreachable or skipped.
        why: what was seen; for a problem, what is wrong.
        fix: for a problem, the way out.
    """

    result: str
    why: str = ""
    fix: str = ""


def good(seen: str = "") -> Finding:
    """All is well."""
    return Finding(GOOD, seen)


def wrong(why: str, fix: str) -> Finding:
    """The set-up is wrong."""
    return Finding(WRONG, why, fix)


def unreachable(why: str, fix: str) -> Finding:
    """Something that is asked does not answer."""
    return Finding(UNREACHABLE, why, fix)


def skipped(why: str) -> Finding:
    """There is nothing to look at."""
    return Finding(SKIPPED, why)


def mistake(error: UserError) -> Finding:
    """An error of Bouquet's as a finding. Its line says what is wrong and then the way out, after ``;`` or ``:``."""
    text = str(error)
    why, separator, fix = text.partition("; ")
    if not separator and (parts := re.fullmatch(r"(.+): (.+)", text)):
        why, fix = parts.groups()
    return wrong(why, fix or "the line says what to change")


@dataclass(frozen=True)
class Rule:
    """One thing to look at.

    Attributes:
        name: in the output and in docs/troubleshooting.md.
        phase: one of PHASES.
        promise: what holds where it is good, as a sentence.
        roles: of what it is asked: a server, a client, or a whole federation on this machine (all).
        check: looks, and says what it found.
        required: whether nothing works while it is wrong. The others cost speed or accuracy, or will matter soon.
        quick: whether it is part of the quick form: milliseconds, no network, no other program.
        at_start: whether a process says it when it starts. It finds the other mistakes by itself.
        needs: rules without which it has nothing to look at.
    """

    name: str
    phase: str
    promise: str
    roles: frozenset[str]
    check: Callable[["Site"], Finding]
    required: bool = True
    quick: bool = False
    at_start: bool = False
    needs: tuple[str, ...] = ("settings",)

    @property
    def docs(self) -> str:
        """Its entry in the documents."""
        return DOCS + self.name


@dataclass(frozen=True)
class Check:
    """A rule with what it found."""

    rule: Rule
    finding: Finding
