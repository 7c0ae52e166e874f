"""``bouquet report``: the page of a run, its files, and the model's card."""

from collections.abc import Callable
from pathlib import Path

from app.errors import UserError
from app.watch.report import page
from app.watch.report.baselines import Baselines, read_baselines, train_baselines
from app.watch.report.card import FILE as CARD
from app.watch.report.card import card
from app.watch.report.contents import FILES, contents
from app.watch.report.examined import examine
from app.watch.report.gather import gather

PAGE = "report.html"


def make(
    folder: Path,
    data: Path | None,
    echo: Callable[[str], None],
    *,
    prepared: Path,
    with_baselines: bool = False,
    out: Path | None = None,
) -> Path:
    """Write the report of the run in ``folder``; the page.

    Args:
        folder: of the run's results.
        data: the data store; None: look for it.
        echo: takes each line for the person.
        prepared: folder of the data stores among which one is looked for where none is given.
        with_baselines: train each partition alone and all data in one place.
        out: the page; None for ``report.html`` in the run's folder.

    Raises:
        UserError: the run cannot be read, or the report cannot be written.
    """
    run = gather(folder)
    found = examine(run, data, prepared)
    file = out or folder / PAGE
    baselines: Baselines | None = None
    if with_baselines:
        if found.store is None:
            raise UserError("--with-baselines needs the data store of the run; give it with --data")
        baselines = train_baselines(run, found.store, file.parent / FILES, echo)
    elif run.is_own:
        baselines = read_baselines(run, file.parent / FILES)
    page.write(contents(run, found, baselines), file)
    for note in found.notes:
        echo(f"note: {note}")
    if found.model_hash:
        page.save(file.with_name(CARD), card(run, found).encode())
    return file
