"""What was found, for people and for programs."""

import json
from collections.abc import Iterator, Sequence

from app.errors import printable
from app.watch.doctor.rule import GOOD, SKIPPED, UNREACHABLE, WRONG, Check

SCHEMA_VERSION = 1
MARKS = {
    GOOD: ("√", "green"),
    WRONG: ("\N{MULTIPLICATION SIGN}", "red"),
    UNREACHABLE: ("‼", "yellow"),
    SKIPPED: ("-", "bright_black"),
}
PLAIN = {GOOD: "ok", WRONG: "wrong", UNREACHABLE: "unreachable", SKIPPED: "skipped"}
INDENT = "    "


def as_lines(check: Check, phase_before: str, style: bool) -> Iterator[str]:
    """A check in one line, under the name of its phase; a hint and an entry for what is not good.

    Args:
        check: what was found.
        phase_before: the phase of the check before it; empty for the first.
        style: whether the lines go to a terminal, and so may have colours.
    """
    import typer

    rule, finding = check.rule, check.finding
    if rule.phase != phase_before:
        if phase_before:
            yield ""
        yield typer.style(rule.phase, bold=True) if style else rule.phase
        yield "-" * len(rule.phase)
    symbol, colour = MARKS[finding.result]
    mark = typer.style(symbol, fg=colour) if style else PLAIN[finding.result]
    promise = f" {rule.promise}" if finding.result == GOOD else f" {rule.name}"
    seen = f": {printable(finding.why)}" if finding.why else ""
    yield f"{mark}{promise}{seen}"
    if finding.fix:
        yield f"{INDENT}{printable(finding.fix)}"
        yield f"{INDENT}see {rule.docs}"


def last_line(checks: Sequence[Check]) -> str:
    """The verdict in one line."""
    wrong = [check.rule.name for check in checks if check.finding.result == WRONG]
    silent = [check.rule.name for check in checks if check.finding.result == UNREACHABLE]
    parts = [f"wrong: {', '.join(wrong)}"] if wrong else []
    parts += [f"out of reach: {', '.join(silent)}"] if silent else []
    return "; ".join(parts) or "all is good"


def as_json(checks: Sequence[Check], role: str) -> str:
    """The same for programs."""
    return json.dumps(
        {
            "schema_version": SCHEMA_VERSION,
            "role": role,
            "checks": [
                {
                    "name": check.rule.name,
                    "phase": check.rule.phase,
                    "required": check.rule.required,
                    "result": check.finding.result,
                    "why": check.finding.why,
                    "fix": check.finding.fix,
                    "docs": check.rule.docs,
                }
                for check in checks
            ],
        },
        indent=2,
    )


def as_warning(check: Check) -> str:
    """A problem in one line, for the log of a process that starts."""
    finding = check.finding
    return printable(f"warning: {check.rule.name}: {finding.why}; {finding.fix} ({check.rule.docs})")
