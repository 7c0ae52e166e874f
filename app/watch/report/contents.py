"""What the report of one run shows, section by section."""

import hashlib
from collections.abc import Iterable
from statistics import fmean

from app.settings import RunSettings
from app.watch.report import course, curves, judged
from app.watch.report.baselines import Baselines
from app.watch.report.drawing import Table
from app.watch.report.examined import Examined
from app.watch.report.gather import EVALUATE, TRAIN, Reply, Run
from app.watch.report.page import Page, Section, cell, duration, moment, number, only, size

FILES = "report"


def contents(run: Run, found: Examined, baselines: Baselines | None) -> Page:
    """The page of a run."""
    sections = [
        _who(run),
        _learned(run),
        _worth(run, baselines),
        _classes(found),
        _clients(run, found),
        _updates(run),
        _privacy(run),
        _sent(run),
        _failures(run),
        _made_from(run, found),
    ]
    return Page(
        title=f"{run.name}: report of a federated run",
        heading=f"Run {run.name}",
        lead=lead(run),
        files=FILES,
        status=run.status if run.status.isalpha() else "failed",
        reason=str(run.finished.get("reason", "")),
        facts=_facts(run),
        sections=[section for section in sections if section],
        foot="Made from events.jsonl by `bouquet report`. Nothing is loaded from elsewhere; times are UTC.",
    )


def lead(run: Run) -> str:
    """The run in a sentence or two."""
    said = str(run.finished.get("participation", ""))
    if not run.finished:
        said = f"The run has told no end; {len(run.rounds)} rounds are finished"
    app = "" if run.is_own else " The run is of another app, which tells no accuracy and no model."
    more = (
        f" {run.unreadable} records of events.jsonl lack what they should hold, and are left out."
        if run.unreadable
        else ""
    )
    return f"{said}.{app}{more}".lstrip(".")


def _facts(run: Run) -> list[tuple[str, str]]:
    last = run.rounds[-1] if run.rounds else None
    took = sum(each.seconds for each in run.rounds)
    found = [
        ("accuracy", number(last.accuracy if last else None)),
        ("loss", number(last.loss if last else None)),
        ("rounds", str(sum(each.number > 0 for each in run.rounds))),
        ("clients", str(len(run.clients))),
        ("time in rounds", duration(took)),
        ("seconds a round", number(took / len(run.rounds) if run.rounds else None)),
        ("went on after a cut", str(sum(fault.kind == "run_resumed" for fault in run.faults))),
    ]
    if run.traffic and run.rounds and run.clients:
        share = len(run.rounds) * max(len(run.clients), 1)
        down, up = (size(each / share) for each in run.traffic)
        found.append(("down, up per client and round", f"{down}, {up}"))
    return found if run.is_own else [fact for fact in found if fact[0] not in ("accuracy", "loss")]


def _who(run: Run) -> Section:
    notes = [] if run.asked or run.rounds else ["No round was begun, so nobody took part."]
    if run.wanted > len(run.clients):
        notes.append(
            f"{run.wanted - len(run.clients)} of {run.wanted} clients that the run wanted were never there."
        )
    return Section("who", "Who took part when", notes, only([course.took_part(run), course.timeline(run)]))


def _learned(run: Run) -> Section:
    figures = [curves.learned(run, "accuracy"), curves.learned(run, "loss"), curves.seconds(run)]
    notes = [] if run.rounds else ["No round is finished."]
    if any(each.loss is None for each in run.rounds) and run.is_own:
        notes.append("Where the loss is missing it was no finite number: the model had diverged.")
    if run.best:
        value = run.best.get("value")
        shown = number(value) if isinstance(value, int | float) else cell(value)
        notes.append(
            f"The best model is that of round {run.best.get('round')}: {run.best.get('metric')} {shown}."
        )
    return Section("learned", "What was learned", notes, only(figures))


def _worth(run: Run, baselines: Baselines | None) -> Section:
    section = Section("worth", "Alone, federated, pooled")
    if baselines is None:
        if run.is_own and run.rounds:
            section.notes = [
                "`bouquet report --with-baselines` trains each partition alone and all data in one place, to compare."
            ]
        return section
    section.figures = only([judged.side_by_side(run, baselines)])
    return section


def _classes(found: Examined) -> Section:
    section = Section(
        "classes", "Classes", list(found.notes), only([judged.per_class(found), judged.confusion(found)])
    )
    section.examples = found.examples
    if found.examples:
        section.notes.append("The pictures are of the server's test split; none is a client's.")
    return section


def _clients(run: Run, found: Examined) -> Section:
    section = Section("clients", "Clients", figures=only([judged.labels(found)]))
    if run.clients:
        section.tables = [("Clients", "clients", client_table(run))]
    return section


def client_table(run: Run) -> Table:
    """A row for each client."""
    faults = {client: [f for f in run.faults if f.client == client] for client in run.clients}
    rows = []
    for client, partition in run.clients.items():
        trained = _of(run, client, TRAIN)
        evaluated = _of(run, client, EVALUATE)
        failed = [f for f in faults[client] if f.counts and f.kind in ("reply_rejected", "reply_late")]
        rows.append(
            [
                client,
                partition,
                trained[-1].num_examples if trained else None,
                len({reply.round for reply in trained}),
                trained[-1].loss if trained else None,
                trained[-1].accuracy if trained else None,
                evaluated[-1].loss if evaluated else None,
                evaluated[-1].accuracy if evaluated else None,
                fmean(reply.seconds for reply in trained) if trained else None,
                ", ".join(sorted({reply.device for reply in trained if reply.device})),
                len(failed),
                sum(f.kind == "client_lost" for f in faults[client]),
            ]
        )
    columns = [
        "client", "partition", "examples", "rounds trained", "last training loss", "last training accuracy",
        "last loss of the average", "last accuracy of the average", "mean seconds", "device", "failures", "lost",
    ]  # fmt: skip
    return Table(columns, rows, frozenset({1, 2, 3, 4, 5, 6, 7, 8, 10, 11}))


def _of(run: Run, client: str, phase: str) -> list[Reply]:
    return [reply for reply in run.replies if (reply.client, reply.phase) == (client, phase)]


def _updates(run: Run) -> Section:
    section = Section("updates", "Updates")
    if str(run.settings.get("privacy", "none")) != "none":
        section.notes = ["With privacy the run tells nothing of a single client's update."]
        return section
    last = run.likenesses[-1] if run.likenesses else None
    section.figures = only([curves.update_lengths(run), curves.likeness(last) if last else None])
    if last:
        rows = [[client, value] for client, value in zip(last.clients, last.agreement, strict=False)]
        title = f"Round {last.round}: cosine between each client's update and the sum of the others'"
        section.tables = [(title, "agreement", Table(["client", "cosine"], rows, frozenset({1})))]
        section.notes = [f"Compared over {last.numbers:,} numbers of the model."]
    return section


def _privacy(run: Run) -> Section:
    section = Section("privacy", "Privacy spent")
    told = run.privacy
    if not told:
        if run.is_own and run.settings:
            section.notes = ["The run added no noise (privacy = none)."]
        return section
    section.figures = only([curves.epsilon(run)])
    rows = [
        [str(key), value if isinstance(value, int | float) else cell(value)] for key, value in told.items()
    ]
    section.tables = [("Privacy after the last round", "privacy-spent", Table(["what", "value"], rows))]
    return section


def _sent(run: Run) -> Section:
    """What each client sent: in sums on the page, and each reply in the file."""
    if not run.replies:
        return Section("sent", "What each client sent")
    rows = []
    for client in run.clients:
        replies = [reply for reply in run.replies if reply.client == client]
        last = next((reply for reply in reversed(replies) if reply.sha256), None)
        down, up = sum(r.bytes_down for r in replies), sum(r.bytes_up for r in replies)
        rows.append(
            [
                client,
                len(replies),
                size(down),
                size(up),
                last.round if last else None,
                last.sha256 if last else "",
            ]
        )
    columns = ["client", "replies", "got", "sent", "last reply, round", "its SHA-256"]
    each = [
        [r.round, r.phase, r.client, r.num_examples, r.loss, r.accuracy, r.seconds, r.bytes_down, r.bytes_up, r.update_length, r.sha256]
        for r in run.replies
    ]  # fmt: skip
    names = [
        "round", "phase", "client", "num_examples", "loss", "accuracy", "seconds", "bytes_down", "bytes_up", "update_length", "sha256",
    ]  # fmt: skip
    tables = [
        (
            "Bytes of all replies, and the digest of the last",
            "sent",
            Table(columns, rows, frozenset({1, 2, 3, 4})),
        ),
    ]
    section = Section("sent", "What each client sent", tables=tables)
    section.files = {"replies": Table(names, each)}
    section.notes = [
        f"Each of the {len(each)} replies stands in {FILES}/replies.csv with its bytes and its digest."
    ]
    return section


def _failures(run: Run) -> Section:
    section = Section("failures", "Failures and new starts")
    if not run.faults:
        section.notes = ["Nothing failed."]
        return section
    rows = [
        [
            moment(f.time),
            f.round or None,
            f.phase,
            f.client,
            course.WORDS.get(f.kind, f.kind),
            f.reason if f.counts else f"{f.reason} (this round was run again)".strip(),
        ]
        for f in run.faults
    ]
    table = Table(["time", "round", "phase", "client", "what", "why"], rows, frozenset({1}))
    section.tables = [("In the order of time", "failures", table)]
    return section


def _made_from(run: Run, found: Examined) -> Section:
    started = run.started
    shape = "x".join(str(each) for each in started.get("shape") or [])
    facts = [
        ("run", run.name), ("Flower's run", started.get("flower_run")), ("mode", started.get("mode")),
        ("began", moment(run.began)), ("last event", moment(run.ended)),
        ("data", started.get("dataset")), ("checksum of the data", started.get("checksum")), ("pictures", shape),
        ("classes", ", ".join(run.classes)), ("test split from", found.test_from),
        ("SHA-256 of model.safetensors", found.model_hash), ("SHA-256 of events.jsonl", _digest(run)),
    ]  # fmt: skip
    versions = started.get("versions")
    facts += [
        (f"version of {name}", value)
        for name, value in (versions.items() if isinstance(versions, dict) else ())
    ]
    rows = [[name, value] for name, value in facts if value not in (None, "")]
    tables = [("Where it comes from", "source", Table(["what", "value"], rows))]
    section = Section("source", "Settings, versions, data", tables=tables)
    if run.settings:
        usual = RunSettings().to_run_config() if run.is_own else {}
        other = {name: value for name, value in run.settings.items() if usual.get(name) != value}
        title = "Settings that are not the default" if run.is_own else "Settings"
        tables.append((title, "settings-chosen", _pairs(other.items())))
        section.folded = [("All settings", "settings", _pairs(run.settings.items()))]
    return section


def _pairs(pairs: Iterable[tuple[str, object]]) -> Table:
    return Table(["setting", "value"], [[name, str(value) if value != "" else ""] for name, value in pairs])


def _digest(run: Run) -> str:
    try:
        return hashlib.sha256((run.folder / "events.jsonl").read_bytes()).hexdigest()
    except OSError:
        return ""
