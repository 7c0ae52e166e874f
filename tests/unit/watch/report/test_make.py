"""The report of a run: of every kind that a run can end as, and of what text from outside says in it."""

import csv
import json
import re
import shutil
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest

from app.errors import UserError
from app.learning.data.prepare import Request, prepare
from app.learning.data.store import Store
from app.learning.model import build_model
from app.learning.weights import get_arrays
from app.settings import RunSettings
from app.watch.report import baselines
from app.watch.report.make import make

from .conftest import Told, client

Write = Callable[..., Path]
NOWHERE = Path("/nonexistent")
VOID = {"meta", "link", "br", "img", "hr", "input"}


class Page(HTMLParser):
    """A page that was taken apart: its tags, its text, and what it refers to."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text, self.refers, self.ids, self.images = "", [], [], []
        self._open: list[str] = []
        self.feed(file.read_text())
        assert not self._open, "a tag is not closed"

    refers: list[str]
    ids: list[str]
    images: list[dict[str, str | None]]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        given = dict(attrs)
        self.refers += [value or "" for name, value in attrs if name in ("href", "src")]
        self.ids += [value or "" for name, value in attrs if name == "id"]
        if tag == "img" or given.get("role") == "img":
            self.images.append(given)
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self._open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def made(folder: Path, data: Path | None = None) -> Page:
    notes: list[str] = []
    return Page(make(folder, data, notes.append, prepared=NOWHERE))


def clients(count: int) -> list[dict[str, object]]:
    return [client(number) for number in range(count)]


RUNS = {
    "no finished round": lambda: Told(clients(2)).start().ask(1),
    "one client": lambda: Told(clients(1)).start().round(1).end(),
    "diverged": lambda: Told(clients(2)).start().round(1, loss=None, accuracy=0.1).round(2, loss=None).end(),
    "200 clients": lambda: Told(clients(200)).start().round(1).round(2).end(),
    "interrupted": lambda: Told(clients(2)).start().round(1).ask(2).end("interrupted", reason="a signal"),
    "failed": lambda: Told(clients(2)).start().end("failed", reason="too few clients"),
    "nothing told": lambda: Told([]),
    "with privacy": lambda: Told(clients(2), privacy="central-fixed").start().round(
        1, privacy={"mechanism": "central-fixed", "epsilon": 3.2, "delta": 1e-5, "releases": 1, "note": None}
    ).end(),
    "another app": lambda: Told(clients(2)).tell(
        "run_started", flower_run="7", mode="local", dataset="", checksum="", shape=[], classes=[],
        settings={"lr": 0.1}, versions={},
    ).ask(1).reply(1, client(0), loss=None, accuracy=None, update_length=None).finish(1, loss=None, accuracy=None).end(),
}  # fmt: skip


@pytest.mark.parametrize("kind", RUNS)
def test_every_kind_of_run_has_a_report(write: Write, kind: str) -> None:
    folder = write(RUNS[kind]())
    page = made(folder)
    assert len(page.ids) == len(set(page.ids))
    assert all(image.get("alt") or image.get("aria-label") for image in page.images)
    files = [name for name in page.refers if not name.startswith(("#", "data:"))]
    assert all((folder / name).is_file() for name in files), files
    assert {name.split("/")[0] for name in files} <= {"report"}
    for figure in re.findall(r"<svg.*?</svg>", (folder / "report.html").read_text(), re.DOTALL):
        ElementTree.fromstring(figure)


def test_the_page_tells_who_was_lost_who_was_late_and_that_the_run_went_on(write: Write) -> None:
    a, b = client(0, "hospital-a"), client(1, "hospital-b")
    told = Told([a, b]).start().round(1).ask(2).reply(2, a)
    told.tell("client_lost", round=2, phase="train", client=b)
    told.tell("reply_late", round=2, phase="train", client=b, reason="it is offline").finish(2).end(
        "interrupted"
    )
    told.start().tell("run_resumed", round=2, checkpoint="x", damaged=[])
    told.tell("phase_retried", round=3, phase="train", accepted=0, needed=1, attempt=1, attempts=2)
    folder = write(told.round(3).end("subset", participation="hospital-b missed 1 of 3"))
    page = made(folder)
    for said in (
        "hospital-b missed 1 of 3",
        "client lost",
        "it is offline",
        "went on after round 2",
        "phase tried again",
    ):
        assert said in page.text
    with (folder / "report" / "took-part.csv").open() as file:
        assert list(csv.reader(file))[1:] == [
            ["hospital-a", "took part", "took part", "took part"],
            ["hospital-b", "took part", "lost, no reply", "took part"],
        ]
    svg = (folder / "report.html").read_text()
    assert "run goes on" in svg and "phase tried again" in svg and "lost</text>" in svg


EVIL = "<script>alert(1)</script>"


def test_text_from_outside_is_text(write: Write) -> None:
    who = client(0, f'{EVIL}"><img src=x onerror=alert(1)>')
    told = Told([who]).start(dataset=EVIL, classes=[EVIL, "$x_{1}$"], versions={EVIL: EVIL}).round(1)
    told.tell("reply_rejected", round=1, phase="train", client=who, reason=f"=HYPERLINK({EVIL})")
    folder = write(told.end("subset", reason=EVIL, participation=EVIL))
    page = made(folder)
    assert "script" not in page.tags and "img" not in page.tags and EVIL in page.text
    assert not any(name.startswith(("x", "http", "//")) for name in page.refers)
    html = (folder / "report.html").read_text()
    assert "default-src 'none'" in html and "onerror=alert" not in re.sub(r"&lt;.*?&gt;", "", html)
    with (folder / "report" / "failures.csv").open() as file:
        assert list(csv.reader(file))[1][-1].startswith("'=HYPERLINK")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    folder = tmp_path_factory.mktemp("data") / "store"
    prepare(Request("digits", num_partitions=3), folder)
    return Store.open(folder)


@pytest.fixture
def trained(write: Write, store: Store) -> Iterator[Path]:
    """A run of two rounds whose model is there."""
    from safetensors.numpy import save_file

    manifest = store.manifest
    told = Told(clients(3)).start(
        checksum=manifest.checksum, shape=list(manifest.shape), classes=list(manifest.classes)
    )
    folder = write(told.round(1).round(2).end())
    model = build_model(RunSettings(), manifest.shape, len(manifest.classes))
    save_file(get_arrays(model), folder / "model.safetensors")
    yield folder


def test_the_model_is_looked_at_on_the_test_split(trained: Path, store: Store) -> None:
    page = made(trained, store.path)
    assert "Accuracy per class" in page.text and "Label distribution" in page.text
    with (trained / "report" / "confusion.csv").open() as file:
        counts = [list(map(int, row[1:])) for row in list(csv.reader(file))[1:]]
    assert sum(map(sum, counts)) == len(store.test)
    with (trained / "report" / "labels.csv").open() as file:
        totals = [int(row[-1]) for row in list(csv.reader(file))[1:]]
    assert totals == [part.train + part.val for part in store.manifest.counts]
    assert any((image.get("alt") or "").startswith("A picture of the test split") for image in page.images)


def test_the_store_is_found_by_its_checksum_among_those_prepared_here(trained: Path, store: Store) -> None:
    make(trained, None, print, prepared=store.path.parent)
    assert (trained / "report" / "confusion.csv").exists()


@pytest.mark.parametrize("given", [True, False])
def test_without_the_data_of_the_run_the_page_says_so(
    trained: Path, store: Store, tmp_path: Path, given: bool
) -> None:
    other = tmp_path / "other"
    if given:
        prepare(Request("digits", num_partitions=2), other)
    page = made(trained, other if given else None)
    assert ("holds other data" if given else "its data store is not here") in page.text
    assert not (trained / "report" / "confusion.csv").exists()


def test_the_baselines_have_the_settings_and_the_epochs_of_the_run(
    trained: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[object, ...]] = []

    def alone(
        store: Store,
        settings: RunSettings,
        *,
        partition_id: int = 0,
        epochs: int,
        all_data: bool = False,
        echo: object,
    ) -> object:
        asked.append((settings.local_epochs, partition_id, epochs, all_data))
        return baselines_alone(0.5, 0.9 if all_data else 0.1 * partition_id)

    from app.tutorial.centralized import Alone

    def baselines_alone(loss: float, accuracy: float) -> Alone:
        return Alone(test=(loss, accuracy))

    monkeypatch.setattr(baselines, "train_alone", alone)
    make(trained, store.path, print, prepared=NOWHERE, with_baselines=True)
    assert asked == [(1, 0, 2, False), (1, 1, 2, False), (1, 2, 2, False), (1, 0, 2, True)]
    with (trained / "report" / "side-by-side.csv").open() as file:
        rows = {row[0]: row[2] for row in csv.reader(file)}
    assert rows["one alone, mean"] == "0.1" and rows["federated"] == "0.2"
    assert rows["pooled: all data in one place"] == "0.9"
    asked.clear()
    assert "Alone, federated, pooled" in made(trained, store.path).text
    assert not asked and (trained / "report" / "side-by-side.csv").exists(), (
        "they are kept for the next report"
    )


def test_baselines_need_the_data_and_a_round(trained: Path, write: Write, store: Store) -> None:
    with pytest.raises(UserError, match="needs the data store of the run"):
        make(trained, None, print, prepared=NOWHERE, with_baselines=True)
    told = Told(clients(3)).start(checksum=store.manifest.checksum)
    with pytest.raises(UserError, match="has no finished round"):
        make(write(told, "empty"), store.path, print, prepared=NOWHERE, with_baselines=True)


def test_pictures_of_the_only_partition_are_not_shown(trained: Path, store: Store, tmp_path: Path) -> None:
    """Where a folder of pictures is one client's own, the test split is of that client's data."""
    own = tmp_path / "own"
    shutil.copytree(store.path, own)
    manifest = json.loads((own / "manifest.json").read_text())
    (own / "manifest.json").write_text(json.dumps(manifest | {"test_from": "partition"}))
    page = made(trained, own)
    assert "none of its pictures are shown" in page.text and "Accuracy per class" in page.text
    assert not any((image.get("alt") or "").startswith("A picture") for image in page.images)


def test_the_card_loads_the_model_in_five_lines(
    trained: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(trained.parents[1])
    made(trained, store.path)
    card = (trained / "model.md").read_text()
    program = re.search(r"```python\n(.*?)```", card, re.DOTALL)
    assert program is not None and program[1].count("\n") == 5
    said: list[str] = []
    exec(program[1], {"print": said.append})
    assert said and said[0] in store.manifest.classes
    assert store.manifest.checksum in card and "| 0 |" in card and "## Limits" in card


def test_a_report_that_cannot_be_written_is_one_line(write: Write) -> None:
    folder = write(RUNS["one client"]())
    (folder / "report").write_text("in the way")
    with pytest.raises(UserError, match=r"the report cannot be written: .*; give --out"):
        make(folder, None, print, prepared=NOWHERE)


def test_another_page_and_its_files_go_where_they_are_asked_to(write: Write, tmp_path: Path) -> None:
    folder = write(RUNS["one client"]())
    file = make(folder, None, print, prepared=NOWHERE, out=tmp_path / "elsewhere" / "page.html")
    assert file.is_file() and (file.parent / "report" / "replies.csv").is_file()
    assert not (folder / "report.html").exists()
    assert json.loads((folder / "events.jsonl").read_text().splitlines()[0])["event"] == "run_started"
