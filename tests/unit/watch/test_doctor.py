"""The rules of `bouquet doctor`, how they are gone through, and how it is told."""

import json
import re
from pathlib import Path

import pytest
from container_engine import ROOT
from fresh_python import run_python
from typer.testing import CliRunner

from app.cli.main import app
from app.cli.watch import look
from app.errors import UserError
from app.fleet.deployment import SuperLinkSettings
from app.watch.doctor import report
from app.watch.doctor.examine import examine, exit_status
from app.watch.doctor.rule import (
    ALL,
    CLIENT,
    GOOD,
    PHASES,
    SERVER,
    SKIPPED,
    WRONG,
    Check,
    Finding,
    Rule,
    good,
    mistake,
    skipped,
    unreachable,
    wrong,
)
from app.watch.doctor.rules import RULES
from app.watch.doctor.site import Site

EVERYONE = frozenset({SERVER, CLIENT, ALL})


def rule(name: str, finding: Finding, *needs: str) -> Rule:
    return Rule(name, "machine", "it is so", EVERYONE, lambda _: finding, needs=needs)


def results(*rules: Rule) -> dict[str, Finding]:
    return {check.rule.name: check.finding for check in examine(Site(ALL), rules)}


def test_each_rule_has_a_file_in_the_folder_of_its_phase_and_an_entry_in_the_documents() -> None:
    text = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    entries = re.findall(r'^\| <a id="doctor-([\w-]+)"></a>([\w-]+) \| (\w+) \| .+ \|$', text, re.MULTILINE)
    assert entries == [(each.name, each.name, each.phase) for each in RULES]
    phases = [each.phase for each in RULES]
    assert phases == sorted(phases, key=PHASES.index), "a phase is told in one piece"
    folder = ROOT / "app" / "watch" / "doctor"
    declaring = [file.parent.name for file in folder.rglob("*.py") if "\nRULE = Rule(" in file.read_text()]
    assert sorted(declaring) == sorted(phases)


def test_what_a_rule_needs_is_there_and_leads_to_no_circle() -> None:
    by_name = {each.name: each for each in RULES}
    for each in RULES:
        seen, waiting = set(), list(each.needs)
        while waiting:
            name = waiting.pop()
            assert name != each.name, f"{name} needs itself"
            waiting += [] if name in seen else by_name[name].needs
            seen.add(name)


def test_one_mistake_is_one_line() -> None:
    found = results(
        rule("late", good(), "early"),
        rule("early", wrong("why", "fix")),
        rule("last", good(), "late"),
        rule("other", good()),
    )
    assert found["early"].result == WRONG and found["other"].result == GOOD
    assert found["late"] == found["last"] == Finding(SKIPPED, "not looked at, because of early")


def test_what_does_not_apply_here_hides_nothing() -> None:
    assert results(rule("first", skipped("no TLS")), rule("second", good(), "first"))["second"].result == GOOD


def test_an_error_of_the_rule_is_its_finding() -> None:
    def raises(error: Exception) -> Rule:
        def check(_: Site) -> Finding:
            raise error

        return Rule("broken", "machine", "", EVERYONE, check, needs=())

    found = results(raises(UserError("a port is taken; choose another")))["broken"]
    assert found == wrong("a port is taken", "choose another")
    found = results(raises(PermissionError(13, "Permission denied", "/secret")))["broken"]
    assert (found.result, found.why) == (WRONG, "/secret cannot be looked at (Permission denied)")


@pytest.mark.parametrize(
    ("line", "why", "fix"),
    [
        ("a key can be read by others (mode 0644): run `chmod 600 key`", "a key can be read by others (mode 0644)", "run `chmod 600 key`"),
        ("DATASET=x: no such folder; give one: x", "DATASET=x: no such folder", "give one: x"),
        ("it is broken", "it is broken", "the line says what to change"),
    ],
)  # fmt: skip
def test_a_line_of_an_error_is_parted_into_what_is_wrong_and_the_way_out(
    line: str, why: str, fix: str
) -> None:
    assert mistake(UserError(line)) == wrong(why, fix)


def test_the_exit_status_is_that_of_the_worst() -> None:
    def of(*findings: Finding) -> int:
        return exit_status([Check(rule("x", finding), finding) for finding in findings])

    assert of(good(), skipped("")) == 0
    assert of(good(), unreachable("", "")) == 2
    assert of(unreachable("", ""), wrong("", "")) == 1


PROBLEM = Check(
    rule("disk", wrong("no space", "make\x1b[31m space")), wrong("no space", "make\x1b[31m space")
)


def test_plain_lines_hold_no_control_character_and_a_hint_with_its_entry() -> None:
    lines = list(report.as_lines(PROBLEM, "", style=False))
    assert lines == [
        "machine", "-------", "wrong disk: no space", r"    make\x1b[31m space", "    see docs/troubleshooting.md#doctor-disk"
    ]  # fmt: skip
    assert list(report.as_lines(Check(RULES[0], good()), "machine", style=False)) == [
        f"ok {RULES[0].promise}"
    ]
    assert "\x1b[31m" in "".join(report.as_lines(PROBLEM, "", style=True))
    assert report.last_line([PROBLEM]) == "wrong: disk" and report.last_line([]) == "all is good"


def test_the_command_prints_what_programs_can_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    taken = ["--role", "client", "--insecure", "--clients", "2", "--partition-id", "2", "--quick"]
    done = CliRunner().invoke(app, ["doctor", *taken, "--json"])
    answer = json.loads(done.stdout)
    assert done.exit_code == 1 and (answer["schema_version"], answer["role"]) == (1, "client")
    [problem] = [each for each in answer["checks"] if each["result"] not in (GOOD, SKIPPED)]
    assert problem.keys() == {"name", "phase", "required", "result", "why", "fix", "docs"}
    assert (problem["name"], problem["docs"]) == ("partition", "docs/troubleshooting.md#doctor-partition")
    plain = CliRunner().invoke(app, ["doctor", *taken])
    assert plain.exit_code == 1 and "wrong partition: PARTITION_ID='2' must be" in plain.stdout
    assert plain.stdout.endswith("\nwrong: partition\n") and "\x1b" not in plain.stdout


def test_a_process_that_starts_says_what_is_wrong_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = SuperLinkSettings(insecure=True)
    monkeypatch.setenv("BOUQUET_RESULTS", str(tmp_path / "results"))
    look(SERVER, settings)
    assert capsys.readouterr() == ("", "")
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("BOUQUET_RESULTS", str(tmp_path / "file"))
    look(SERVER, settings)
    out, err = capsys.readouterr()
    assert out == "" and err.startswith(
        f"warning: volumes: {tmp_path / 'file'} is no folder; choose another folder with"
    )


def test_a_client_that_is_given_its_partition_needs_no_folder_for_leases(tmp_path: Path) -> None:
    """The images name one; a pod has none."""
    (tmp_path / "leases").write_text("no folder")
    environment = {"BOUQUET_LEASES": str(tmp_path / "leases")}

    def volumes(**given: str) -> Finding:
        site = Site(CLIENT, {"insecure": True, **given}, environment)
        [check] = examine(site, RULES, lambda rule: rule.name == "volumes")
        return check.finding

    assert volumes().result == WRONG and volumes(partition_id="0").result == GOOD


def test_the_look_at_the_start_loads_nothing_that_starts_a_thread() -> None:
    """The warm parent is a fork of the SuperNode that has looked."""
    run_python(
        "import sys\n"
        "from app.cli.watch import look\n"
        "from app.fleet.deployment import SuperNodeSettings\n"
        "look('client', SuperNodeSettings(insecure=True))\n"
        "assert not {'numpy', 'torch', 'grpc', 'flwr'} & sys.modules.keys()\n"
    )
