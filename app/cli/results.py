"""The commands for what runs have left: the report, runs side by side, and the model, to use."""

import json
import sys
from pathlib import Path

import typer

from app.cli.data import PREPARED
from app.cli.options import add_command, echo
from app.errors import FAILED, printable
from app.fleet.deployment import CompareSettings, ExportSettings, PredictSettings, ReportSettings


def report(settings: ReportSettings) -> None:
    """Make a page of a run: who took part when, what was learned, what failed; and a card of its model.

    The page is one file that needs no network. PNG and CSV files stand in the folder report/ beside it.
    """
    from app.watch.report.make import make
    from app.watch.runs import find

    folder = find(settings.results, settings.run)
    file = make(
        folder,
        settings.data,
        echo,
        prepared=PREPARED,
        with_baselines=settings.with_baselines,
        out=settings.out,
    )
    echo(f"saved {file}")


def report_latest(results: Path, data: Path | None) -> None:
    """Make the report of a run that has just ended. What goes wrong is a warning: the run has ended as it has."""
    try:
        report(ReportSettings(results=results, data=data))
    except Exception as error:
        print(f"warning: the run has no report: {printable(str(error))}", file=sys.stderr, flush=True)


def compare(settings: CompareSettings) -> None:
    """Set runs side by side in one page: which settings differ, and what came of it."""
    from app.watch.report.compare import make
    from app.watch.runs import find

    folders = [find(settings.results, run) for run in settings.runs]
    echo(f"saved {make(folders, settings.results, settings.out)}")


def predict(settings: PredictSettings) -> None:
    """Ask the model of a run what pictures show: a class and how probable it is, for files and whole folders.

    The exit status is 1 where a picture cannot be read.
    """
    from app.models.load import load_model
    from app.models.predict import pictures
    from app.models.predict import predict as ask
    from app.watch.runs import find

    trained = load_model(find(settings.results, settings.run), settings.model)
    files = list(pictures(map(Path, settings.images)))
    told, faults = [], []
    for each in ask(trained, files, settings.top):
        if each.fault:
            faults.append({"file": str(each.file), "reason": each.fault})
            print(f"error: {printable(str(each.file))}: {printable(each.fault)}", file=sys.stderr, flush=True)
        elif settings.as_json:
            guesses = [{"class": g.name, "probability": round(g.probability, 6)} for g in each.guesses]
            told.append({"file": str(each.file), "guesses": guesses})
        else:
            said = "  ".join(f"{printable(g.name)} {g.probability:.4f}" for g in each.guesses)
            echo(f"{printable(str(each.file))}  {said}")
    if settings.as_json:
        answer = {"schema_version": 1, "model": str(trained.file), "predictions": told, "unreadable": faults}
        echo(json.dumps(answer, indent=2))
    if faults:
        raise typer.Exit(FAILED)


def export(settings: ExportSettings) -> None:
    """Write the model of a run as ONNX or TorchScript, and compare what it gives with PyTorch: 1e-4 at most.

    It takes float32 pictures [N, C, H, W], each byte x as x / 127.5 - 1, and gives logits.
    """
    from app.models import export as forms
    from app.models.load import beginning, of_run
    from app.watch.report.examined import find_store
    from app.watch.runs import find

    folder = find(settings.results, settings.run)
    started = beginning(folder)
    trained = of_run(folder, started, settings.model)
    store = find_store(started, settings.data, PREPARED)
    file = settings.out or trained.file.with_suffix(forms.SUFFIXES[settings.form])
    made = forms.export(trained, settings.form, file, store.test.images if store else None)
    on = "pictures of the test split" if store else "random pictures"
    echo(f"saved {made.file}: on {on} its logits differ from PyTorch's by {made.difference:.2g} at most")


def add_to(app: typer.Typer) -> None:
    """Add these commands to ``bouquet``."""
    add_command(app, report, ReportSettings, example="bouquet report --run latest --with-baselines")
    add_command(
        app, compare, CompareSettings, example="bouquet compare 20261130-101500-123456 latest", words="runs"
    )
    add_command(
        app,
        predict,
        PredictSettings,
        example="bouquet predict --run latest cat.png pictures/",
        words="images",
    )
    add_command(app, export, ExportSettings, example="bouquet export --run latest --format onnx")
