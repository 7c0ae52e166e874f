"""The documents: every error has an entry, and what they point to is there."""

import ast
import re
from collections.abc import Iterator

import pytest
from container_engine import ROOT

from app.watch.troubleshooting import anchor, entry

DOCUMENTS = sorted(
    [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("*/README.md"), *ROOT.glob("deploy/*/README.md")]
)


def _pattern(node: ast.expr) -> str:
    """The text of a message, with … for what is filled in."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values)
    return _pattern(node.left) + _pattern(node.right) if isinstance(node, ast.BinOp) else "…"


def _errors() -> Iterator[str]:
    for file in sorted((ROOT / "app").rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Name)
                and node.func.id in ("UserError", "ConnectionLost", "Drained")
                and node.args
            ):
                message = " ".join(_pattern(node.args[0]).split()).replace("|", "/")
                if message.strip("… "):
                    yield message


def test_every_error_has_an_entry() -> None:
    text = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    missing = [message for message in _errors() if f"| {message} |" not in text]
    assert not missing, "add a row to docs/troubleshooting.md: the message, and why it appears"


def test_an_error_names_the_section_that_explains_it() -> None:
    text = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    sections = {anchor(heading) for heading in re.findall(r"^## (.*)$", text, re.MULTILINE)}
    for message in _errors():
        page, _, section = entry(message.replace("…", "some/thing | else")).partition("#")
        assert page == "docs/troubleshooting.md" and section in sections, message
    assert entry("there is no run 'x' in results (BOUQUET_RESULTS): it has none").endswith("#looking-at-runs")
    assert entry("something that nobody says") == ""


def test_no_entry_is_of_an_error_that_is_gone() -> None:
    text = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    _, _, tables = text.partition("## Why a client does not get in")
    known = set(_errors())
    listed = [
        row.split(" | ")[0].removeprefix("| ")
        for table in re.findall(r"\| message \| why \|\n\|---\|---\|\n((?:\|.*\n)+)", tables)
        for row in table.splitlines()
    ]
    assert listed and not [message for message in listed if message not in known]


def test_each_promise_names_a_test_that_is_there() -> None:
    """In the threat model. A row without a test is no promise."""
    text = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
    rows = [
        row
        for row in re.findall(r"^\| (.*) \|$", text, re.MULTILINE)
        if not row.startswith(("cannot", "promise"))
    ]
    tests = re.compile(r"`(tests/[\w/]+\.py)::(test_\w+)`")
    assert len(rows) > 20 and not [row for row in rows if not tests.search(row.split(" | ")[1])]
    named = set(tests.findall(text))
    there = {
        (file, node.name)
        for file in {file for file, _ in named}
        for node in ast.walk(ast.parse((ROOT / file).read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef)
    }
    assert not named - there


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda file: file.relative_to(ROOT).as_posix())
def test_links_and_files_are_there(document: str) -> None:
    file = ROOT / document
    text = file.read_text(encoding="utf-8")
    links = [link for link in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text) if "://" not in link]
    named = re.findall(r"`((?:app|bench|deploy|docker|docs|tests)/[\w/.-]+\.(?:py|md|sh|yaml|json|c))`", text)
    missing = [link for link in links if not (file.parent / link).exists()]
    missing += [name for name in named if not (ROOT / name).exists()]
    assert not missing
