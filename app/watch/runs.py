"""The runs in a results folder, as all that is shown of them reads them: their folders, and the records of their events."""

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from typing import Any

from app.errors import UserError
from app.rounds import events
from app.rounds.results import read_events, records_in

LATEST, EVENTS = "latest", "events.jsonl"
Record = Mapping[str, Any]
_RECENT = 20  # runs among which one that is under way is looked for


def find(results: Path, run: str = LATEST) -> Path:
    """The folder of a run, under its own name: a name in ``results``, ``latest``, or a path.

    Raises:
        UserError: there is no such run.
    """
    for folder in (results / run, Path(run)):
        if (folder / EVENTS).is_file():
            return folder.resolve()
    there = sorted(file.parent.name for file in results.glob(f"*/{EVENTS}") if file.parent.name != LATEST)
    known = f"its last ones are {', '.join(there[-3:])}" if there else "it has none"
    raise UserError(f"there is no run '{run}' in {results} (BOUQUET_RESULTS): {known}")


def of_flower_run(results: Path, run_id: int) -> Path | None:
    """The folder of the run that Flower calls ``run_id``, newest first; None where there is none yet.

    A run that goes on from a checkpoint has a new id of Flower's each time.
    """
    mark = f'"flower_run": "{run_id}"'.encode()
    dated = []
    for file in results.glob(f"*/{EVENTS}"):
        with suppress(OSError):  # it was removed meanwhile
            dated.append((file.stat().st_mtime, file))
    for _, file in sorted(dated, reverse=True)[:_RECENT]:
        with suppress(OSError):
            if mark in file.read_bytes():
                return file.parent.resolve()
    return None


def under_way(results: Path) -> Path | None:
    """The folder of the run that began last and has not ended; None where there is none.

    A run whose server was killed counts as under way: it goes on when the server is back.
    """
    try:
        folder = find(results)
    except UserError:
        return None
    told = records(folder)
    return None if told and told[-1].get("event") == "run_finished" else folder


def records(folder: Path) -> list[Record]:
    """The records of a run that count, in their order. Raises OSError where the run has none."""
    return that_count(read_events(folder / EVENTS))


def that_count(told: Iterable[Record]) -> list[Record]:
    """Without what a run did after the checkpoint from which it went on."""
    kept: list[Record] = []
    for record in told:
        if record.get("event") == "run_resumed":
            kept = [each for each in kept if each.get("round", 0) <= record["round"]]
        kept.append(record)
    return kept


class Tail:
    """The records that a growing ``events.jsonl`` gets, each once.

    A file that is not there yet has none. A line that is not whole comes when it is.
    """

    def __init__(self, file: Path) -> None:
        self._file, self._read = file, 0

    def new(self) -> list[Record]:
        """The records since the last call. Lines that are no record are left out."""
        try:
            with self._file.open("rb") as file:
                file.seek(self._read)
                content = file.read()
        except FileNotFoundError:
            return []
        whole = content[: content.rfind(b"\n") + 1]
        self._read += len(whole)
        return list(records_in(whole))


def as_event(record: Record) -> events.Event | None:
    """The record as the typed event that it was; None for one that this version does not know."""
    kind = _KINDS.get(str(record.get("event", "")))
    if kind is None:
        return None
    values = {field.name: record[field.name] for field in fields(kind) if field.name in record}
    try:
        if isinstance(values.get("client"), dict):
            values["client"] = _client(values["client"])
        if isinstance(values.get("clients"), list):
            values["clients"] = [_client(each) for each in values["clients"]]
        return kind(**values)
    except (KeyError, TypeError):
        return None


def _client(of: Mapping[str, Any]) -> events.Client:
    return events.Client(of["node_id"], of.get("partition_id"), of.get("name", ""))


_KINDS: dict[str, type[events.Event]] = {kind.name(): kind for kind in events.Event.__subclasses__()}
