"""The report of a real run that lost a client and its server, opened in a real browser; and what is done with its model."""

import csv
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import browser_page
from faulty_federation import Federation
from faulty_run import FaultyRun
from federation_processes import bouquet

pytestmark = pytest.mark.federation


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, small_store: Path) -> Iterator[Path]:
    """The folder of a run in which a client was killed and did not come back, and then the SuperLink was, and did."""
    folder = tmp_path_factory.mktemp("report")
    with Federation(folder, small_store, num_clients=3).taken_down() as federation:
        federation.more = {"BOUQUET_LOST_AFTER": "10"}
        federation.make_identities()
        federation.start_all()
        run = FaultyRun(federation, "num-server-rounds=10 fraction-evaluate=1.0 min-train-nodes=3")
        run.wait_for_round(2)
        run.inject("SIGKILL of a client", lambda: federation.kill("supernode-1"), "client-1")
        run.wait_for_a_miss("client-1")
        run.wait_for_more_rounds()
        run.inject("SIGKILL of the SuperLink", lambda: federation.kill("superlink"))
        federation.superlink()
        run.end(3)
        yield run.folder


@pytest.fixture(scope="module")
def report(run: Path, small_store: Path) -> Path:
    """Its report."""
    done = bouquet("report", "--run", str(run), "--data", str(small_store))
    assert done.returncode == 0 and done.stdout == f"saved {run / 'report.html'}\n", done
    return run / "report.html"


def rows(report: Path, name: str) -> list[dict[str, str]]:
    with (report.parent / "report" / f"{name}.csv").open() as file:
        return list(csv.DictReader(file))


def test_the_timeline_shows_who_was_lost_and_that_the_run_went_on(report: Path) -> None:
    took = {row.pop("client"): list(row.values()) for row in rows(report, "took-part")}
    assert took["client-0"] == ["took part"] * 10
    assert took["client-1"][:2] == ["took part"] * 2 and took["client-1"][-1] == "not there"
    assert {"lost, no reply", "no reply in time"} & set(took["client-1"]), took
    told = [row["what"] for row in rows(report, "failures")]
    assert told.index("client lost") < told.index("run went on") and told.count("run went on") == 1
    page = report.read_text()
    assert "run goes on</text>" in page and "lost</text>" in page


def test_its_figures_are_those_of_the_history_and_the_events(report: Path) -> None:
    with (report.parent / "history.csv").open() as file:
        history = list(csv.DictReader(file))
    server = {row["round"]: float(row["accuracy"]) for row in history if row["phase"] == "server"}
    assert {row["round"]: float(row["server"]) for row in rows(report, "accuracy")} == server
    sent = rows(report, "replies")
    assert len(sent) == sum(row["phase"] != "server" for row in history)
    assert all(len(row["sha256"]) == 64 for row in sent), "the SuperLink's digest of each reply"
    assert len({row["sha256"] for row in sent}) == len(sent)
    assert all(float(row["update_length"]) > 0 for row in sent if row["phase"] == "train")
    classes = rows(report, "per-class")
    total = sum(int(row["pictures"]) for row in classes)
    right = sum(int(row["pictures"]) * float(row["accuracy"]) for row in classes)
    assert total == 500 and right / total == pytest.approx(server["10"], abs=2e-3), "the model that was saved"
    cosines = [float(row["cosine"]) for row in rows(report, "agreement")]
    assert len(cosines) == 2 and all(-1 <= each <= 1 for each in cosines)


@pytest.mark.parametrize("width", [375, 1440])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_browser_shows_it_without_a_network(report: Path, tmp_path: Path, width: int, scheme: str) -> None:
    from axe_playwright_python.sync_playwright import Axe

    with browser_page(
        viewport={"width": width, "height": 900}, color_scheme=scheme, bypass_csp=True, offline=True
    ) as page:
        asked: list[str] = []
        said: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.on("console", lambda message: said.append(message.text))
        page.goto(report.as_uri())
        page.screenshot(path=tmp_path / "report.png", full_page=True)
        assert [url for url in asked if not url.startswith("data:")] == [report.as_uri()] and not said
        assert page.evaluate("document.documentElement.scrollWidth") == width, "the page moves sideways"
        ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (sum(map(int, ground[4:-1].split(","))) < 384) == (scheme == "dark")
        assert page.locator("svg").count() >= 8 and page.get_by_role("img").count() >= 8
        smallest = page.evaluate(
            "Math.min(...[...document.querySelectorAll('svg text')].map(e => e.getBoundingClientRect().height))"
        )
        assert smallest >= 7, "text in a figure is too small to read"
        found = Axe().run(page).response["violations"]
        assert not [each for each in found if each["impact"] in ("serious", "critical")], found


def test_it_runs_no_script(report: Path, tmp_path: Path) -> None:
    """The page's own policy stops what its escaping might miss."""
    evil = tmp_path / "evil.html"
    evil.write_text(
        report.read_text().replace(
            "</body>", "<script>document.title='run'</script><img src='http://127.0.0.1:9/x'></body>"
        )
    )
    with browser_page() as page:
        refused: list[str] = []
        page.on("requestfailed", lambda request: refused.append(f"{request.url} {request.failure}"))
        page.goto(evil.as_uri())
        assert page.title() != "run" and refused == ["http://127.0.0.1:9/x csp"]


def test_runs_side_by_side_in_a_browser(run: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    told = (run / "events.jsonl").read_text().replace('"batch-size": 32', '"batch-size": 64')
    (other / "events.jsonl").write_text(told)
    page_file = tmp_path / "page.html"
    done = bouquet("compare", str(run), str(other), "--out", str(page_file))
    assert done.returncode == 0, done
    with browser_page(viewport={"width": 375, "height": 900}) as page:
        page.goto(page_file.as_uri())
        assert page.locator("#different ~ .card tbody th").all_inner_texts() == ["batch-size"]
        assert page.evaluate("document.documentElement.scrollWidth") == 375


@pytest.mark.parametrize("form", ["onnx", "torchscript"])
def test_the_model_is_exported_as_it_answers(run: Path, small_store: Path, tmp_path: Path, form: str) -> None:
    file = tmp_path / "model"
    done = bouquet(
        "export", "--run", str(run), "--format", form, "--data", str(small_store), "--out", str(file)
    )
    assert done.returncode == 0 and "on pictures of the test split" in done.stdout, done
    assert file.stat().st_size > 200_000


def test_the_model_is_asked_about_the_pictures_of_its_report(run: Path, report: Path) -> None:
    wrong = sorted((report.parent / "report").glob("example-*-wrong.png"))
    done = bouquet("predict", "--run", str(run), "--model", "last", "--json", "--top", "1", *map(str, wrong))
    assert done.returncode == 0, done
    answer = json.loads(done.stdout)
    page = report.read_text()
    for each in answer["predictions"]:
        assert f"taken for {each['guesses'][0]['class']}" in page
    assert len(answer["predictions"]) == len(wrong) > 0
