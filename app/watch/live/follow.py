"""Following a run: its events go into the view, and the view onto the terminal, beside the lines that are printed."""

import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.text import Text

from app.rounds.console import line_of
from app.watch import runs
from app.watch.live.picture import picture
from app.watch.live.state import RunView, time_of

LOOK_S = 0.5
NO_RUN = "no run is under way here; waiting for the next one (Ctrl-C ends)"
_CONTROL = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(\x07|\x1b\\)|[\x00-\x08\x0b-\x1f\x7f]")


class Follower:
    """Takes what is new of one run's events."""

    def __init__(self, folder: Path) -> None:
        self.view = RunView(name=folder.name)
        self._tail = runs.Tail(folder / runs.EVENTS)

    def look(self) -> list[str]:
        """Take what is new, and return the lines that it is for people."""
        lines = []
        for record in self._tail.new():
            event = runs.as_event(record)
            if event is not None:
                self.view.take(event, time_of(record.get("time")))
                lines += [line] if (line := line_of(event, self.view.name)) else []
        return lines


def without_control(line: str) -> str:
    """A line without colours and other control characters, as a file or a pipe gets it."""
    return _CONTROL.sub("", line)


class Screen:
    """A terminal on which one run is shown below the lines that are printed.

    The view appears when the run's folder does. The thread that draws it ends with ``stop``.
    """

    def __init__(
        self, console: Console, find: Callable[[], Path | None] = lambda: None, *, stays: bool = False
    ) -> None:
        self._console = console
        self._find: Callable[[], Path | None] | None = find
        self._live = Live(console=console, auto_refresh=False, transient=not stays)
        self._follower: Follower | None = None
        self._ended = threading.Event()
        self._drawing = threading.Thread(target=self._draw_until_stopped, daemon=True)

    @property
    def view(self) -> RunView | None:
        """What is shown; None while there is no run."""
        return self._follower.view if self._follower else None

    def look_for(self, find: Callable[[], Path | None]) -> None:
        """Show another run as soon as ``find`` gives its folder, which is asked until then."""
        self._find = find

    def say(self, line: str) -> None:
        """Print one line above the view."""
        self._console.print(Text.from_ansi(line), soft_wrap=True)

    def begin(self) -> None:
        """Take the terminal."""
        self._live.start()
        self._drawing.start()

    def stop(self) -> None:
        """Give the terminal back, as it was before."""
        self._ended.set()
        if self._drawing.ident is not None:
            self._drawing.join()
        with suppress(OSError):  # the terminal has gone
            self._draw()
            self._live.stop()

    def _draw_until_stopped(self) -> None:
        while not self._ended.wait(LOOK_S):
            try:
                self._draw()
            except OSError:  # the terminal has gone; the run has not
                return

    def _draw(self) -> None:
        if (find := self._find) is not None and (folder := find()) is not None:
            if self._follower is None or self._follower.view.name != folder.name:
                self._follower = Follower(folder)
            if self._find is find:
                self._find = None
        if self._follower is None:
            return
        self._follower.look()
        size = self._console.size
        shown = picture(self._follower.view, datetime.now(UTC), size.width, size.height - 1)
        self._live.update(shown, refresh=True)


def _draws(console: Console, plain: bool) -> bool:
    """Whether there is a terminal for the view."""
    return not plain and console.is_terminal and not console.is_dumb_terminal


@contextmanager
def shown(results: Path, *, plain: bool) -> Iterator[tuple[Callable[[str], None], Callable[[int], None]]]:
    """Show a run that this process submits: below its lines on a terminal, else as its lines alone.

    Yields:
        What takes each line, and what is told Flower's id of the run, each time that it was submitted.
    """
    console = Console(highlight=False)
    if not _draws(console, plain):
        strip = not console.is_terminal
        yield lambda line: print(without_control(line) if strip else line, flush=True), lambda _: None
        return
    screen = Screen(console)

    def begun(run_id: int) -> None:
        screen.look_for(partial(runs.of_flower_run, results, run_id))

    screen.begin()
    try:
        yield screen.say, begun
    finally:
        screen.stop()


def watch(results: Path, run: str, *, plain: bool) -> None:
    """Show a run until it has ended, or until Ctrl-C.

    Args:
        results: folder of all results.
        run: its name; empty for the one that is under way, else the next one.
        plain: print lines only, also on a terminal.

    Raises:
        UserError: there is no run of that name.
    """
    console = Console(highlight=False)
    named = runs.find(results, run) if run else None

    def folder() -> Path | None:
        return named or runs.under_way(results)

    if not _draws(console, plain):
        _print_lines(folder)
        return
    screen = Screen(console, folder, stays=True)
    if folder() is None:
        screen.say(NO_RUN)
    screen.begin()
    try:
        while not (screen.view and screen.view.ended):
            time.sleep(LOOK_S)
    finally:
        screen.stop()


def _print_lines(find: Callable[[], Path | None]) -> None:
    folder, told = find(), False
    while folder is None:
        if not told:
            print(NO_RUN, flush=True)
            told = True
        time.sleep(LOOK_S)
        folder = find()
    follower = Follower(folder)
    print(f"run {folder.name}", flush=True)
    while True:
        for line in follower.look():
            print(without_control(line), flush=True)
        if follower.view.ended:
            return
        time.sleep(LOOK_S)
