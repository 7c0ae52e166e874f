"""Fixtures of the tests that break a part of a real federation."""

import os
from collections.abc import Generator, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from fault_table import TABLE, Fault, as_markdown
from faulty_federation import Federation
from federation_processes import ROOT

from app.learning.data.prepare import Request, prepare


@pytest.fixture
def federation(tmp_path: Path, small_store: Path) -> Iterator[Federation]:
    """A SuperLink with TLS and keys, and up to three SuperNodes, as plain processes on loopback."""
    with Federation(tmp_path, small_store, num_clients=3).taken_down() as started:
        started.make_identities()
        yield started


@pytest.fixture
def ten(federation_of_ten: Federation) -> Iterator[Federation]:
    """The ten clients, without a run. What a test has broken is whole again for the next."""
    yield federation_of_ten
    if "train" in federation_of_ten.processes:  # of a test that failed
        federation_of_ten.stop_one("train")
    dialled, federation_of_ten.lines = set(federation_of_ten.lines), {}
    for number in range(10):
        process = federation_of_ten.processes.get(f"supernode-{number}")
        if process is None or process.poll() is not None:
            federation_of_ten.supernode(number)
        elif number in dialled:
            federation_of_ten.restart(number)


@pytest.fixture(scope="session")
def federation_of_ten(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    """A SuperLink and ten clients, whose loss is noticed as soon as the setting allows."""
    folder = tmp_path_factory.mktemp("ten")
    prepare(Request(str(ROOT / "tests" / "data" / "cifar10"), num_partitions=10), folder / "store")
    with Federation(folder, folder / "store", num_clients=10).taken_down() as started:
        started.more = {
            "BOUQUET_LOST_AFTER": "10",
            "BOUQUET_LEASES": str(folder / "leases"),
            "BOUQUET_LOCAL_CLIENTS": "10",
        }
        started.make_identities()
        started.start_all()
        yield started


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Rows of the table travel in a test's report, so those of all workers of pytest-xdist meet."""
    report = yield
    report.user_properties = [*report.user_properties, *(("fault", asdict(fault)) for fault in TABLE)]
    TABLE.clear()
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Write the table of faults, and print it."""
    reports = [each for kind in terminalreporter.stats.values() for each in kind]
    rows: list[Any] = [row for each in reports for _, row in getattr(each, "user_properties", ())]
    if rows:
        table = as_markdown(Fault(**row) for row in rows)
        file = Path(os.environ.get("BOUQUET_FAULTS_TABLE", "") or ROOT / "build" / "faults.md")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(table)
        terminalreporter.section(f"faults, {file}")
        terminalreporter.write_line(table)
