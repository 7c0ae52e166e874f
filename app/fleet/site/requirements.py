"""What a client's site requires of a run's settings, whatever the server asks for.

The server sends the run config along with each run, also to a client that has pinned the app. So a pinned app may still be
told to add no noise. A site sets `BOUQUET_SITE_REQUIRE`, such as ``privacy=local local-epsilon<=2``, and its client answers
messages of any other run with an error.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from app.errors import UserError

_REQUIREMENT = re.compile(r"([a-z][a-z0-9-]*)(<=|>=|=)([^<>=\s]+)")
LOCAL_PRIVACY = "privacy=local"


@dataclass(frozen=True)
class Requirement:
    """One bound on a setting of a run: ``key`` is one of the words (``=``), or at most or at least a number."""

    key: str
    comparison: str
    value: str

    def __str__(self) -> str:
        return f"{self.key}{self.comparison}{self.value}"

    def is_met(self, run_config: Mapping[str, Any]) -> bool:
        """Whether a run's settings meet it; a setting that is missing or of another kind does not."""
        given = run_config.get(self.key)
        if self.comparison == "=":
            return given is not None and _text(given) in self.value.split("|")
        if isinstance(given, bool) or not isinstance(given, int | float):
            return False
        return given <= float(self.value) if self.comparison == "<=" else given >= float(self.value)


class Requirements(tuple[Requirement, ...]):
    """All that a site requires."""

    def __str__(self) -> str:
        return " ".join(map(str, self))


NO_REQUIREMENTS = Requirements()


def parse_requirements(text: str) -> Requirements:
    """Read requirements, separated by spaces (`BOUQUET_SITE_REQUIRE`). Raises UserError for what is none."""
    found = []
    for word in text.split():
        match = _REQUIREMENT.fullmatch(word)
        if match is None or (
            match[2] != "=" and not re.fullmatch(r"[0-9]+(\.[0-9]*)?(e-?[0-9]+)?", match[3])
        ):
            raise UserError(
                f"BOUQUET_SITE_REQUIRE holds {word!r}, which is no requirement: "
                "write KEY=WORD, KEY<=NUMBER or KEY>=NUMBER, such as privacy=local local-epsilon<=2"
            )
        found.append(Requirement(*match.groups()))
    return Requirements(found)


def unmet(requirements: Requirements, run_config: Mapping[str, Any]) -> list[str]:
    """The requirements that a run's settings do not meet, each with what the run has instead."""
    missed = [
        f"{each} (the run has {_text(run_config.get(each.key, 'none'))})"
        for each in requirements
        if not each.is_met(run_config)
    ]
    return missed + list(_too_little_noise(requirements, run_config))


def _too_little_noise(requirements: Requirements, run_config: Mapping[str, Any]) -> Iterator[str]:
    """Local noise is as large as the sensitivity that the run names, which must be at least the true one."""
    if LOCAL_PRIVACY not in map(str, requirements):
        return
    named, norm = run_config.get("local-sensitivity", 0), run_config.get("clipping-norm", 0)
    if named and not (isinstance(named, int | float) and isinstance(norm, int | float) and named >= 2 * norm):
        yield f"local-sensitivity of at least 2 * clipping-norm, or 0 (the run has {_text(named)})"


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
