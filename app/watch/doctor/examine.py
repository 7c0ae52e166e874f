"""Going through the rules, in their order."""

from collections.abc import Callable, Iterator, Sequence

from app.errors import UserError
from app.watch.doctor.rule import UNREACHABLE, WRONG, Check, Finding, Rule, mistake, skipped, wrong
from app.watch.doctor.site import Site

EXIT_WRONG, EXIT_UNREACHABLE = 1, 2


class _Examination:
    """Asks each rule once, those that it needs first, also where they stand further down."""

    def __init__(self, site: Site, rules: Sequence[Rule]) -> None:
        self._site, self._rules = site, {rule.name: rule for rule in rules}
        self._found: dict[str, Finding] = {}
        self._cause: dict[str, str] = {}  # the rule whose mistake keeps this one from looking

    def ask(self, rule: Rule) -> Finding:
        if rule.name not in self._found:
            self._found[rule.name] = self._ask(rule)
        return self._found[rule.name]

    def _ask(self, rule: Rule) -> Finding:
        for name in rule.needs:
            if (other := self._rules.get(name)) is None:
                continue  # it is not of this role, or not wanted
            if self.ask(other).result in (WRONG, UNREACHABLE):
                self._cause[rule.name] = name
            elif name in self._cause:
                self._cause[rule.name] = self._cause[name]
            else:
                continue
            return skipped(f"not looked at, because of {self._cause[rule.name]}")
        try:
            return rule.check(self._site)
        except UserError as error:
            return mistake(error)
        except OSError as error:
            return wrong(
                f"{error.filename or 'it'} cannot be looked at ({error.strerror or error})",
                "run this as the user of the process, who must be able to read it",
            )


def examine(
    site: Site, rules: Sequence[Rule], wanted: Callable[[Rule], bool] = lambda rule: True
) -> Iterator[Check]:
    """Ask the rules of the site's role that are ``wanted``, one after another, and say what each found.

    A rule that needs one with a mistake is skipped, so one mistake is one line.
    """
    asked = [rule for rule in rules if site.role in rule.roles and wanted(rule)]
    examination = _Examination(site, asked)
    for rule in asked:
        yield Check(rule, examination.ask(rule))


def exit_status(checks: Sequence[Check]) -> int:
    """0 where all is good, 1 for a wrong set-up, 2 where something is out of reach and nothing is wrong."""
    results = {check.finding.result for check in checks}
    return EXIT_WRONG if WRONG in results else EXIT_UNREACHABLE if UNREACHABLE in results else 0
