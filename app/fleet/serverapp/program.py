"""A ServerApp's process: Flower's ``flwr-serverapp``, whose grid waits less and says which clients failed.

``python -P program.py FD ARGUMENTS``, with those of ``flwr-serverapp``. It writes a byte to FD when it has reported its end
to the SuperLink. It imports nothing of this package, because an app may have one of the same name. It adds, for any app:

* the process ends with its SuperExec;
* ``send_and_receive`` asks again at once where the SuperLink holds requests, and not after 3 s;
* a client's error is said when it comes, with the client's name, and the run fails where no client ever replied well;
* the run has a folder in the results, where the app works (``run_folder.py``);
* a phase ends by a rule, a message that was lost is sent again, and each phase is told (``following.py``).

Bouquet's own app looks after its clients itself.

Read in flwr 1.39.0: ``superlink/grid/http_grid.py``, ``superlink/runtime/run_serverapp.py``. The patch ``serverapp`` lists
the names used here, and the registry checks them before anything of this runs.
"""

import os
import re
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any, NamedTuple

from flwr.superlink.cli.flwr_serverapp import flwr_serverapp

http_grid: Any = import_module("flwr.superlink.grid.http_grid")
# The package exports a function of the module's name.
runtime: Any = import_module("flwr.superlink.runtime.run_serverapp")

OWN_APP = "bouquet/bouquet"
STOCK_PAUSE_S = 3.0
HELD_S = 1.0  # an answer without replies that took so long was held
MOST_LINES = 20
WAITING_S = 15.0
NO_REPLY = "it did not reply for as long as the app waited"
_RAISED = re.compile(r"<class '([\w.]+)'>:<['\"](.*)['\"]>", re.DOTALL)  # how Flower writes an exception


def load_file(path: Path) -> Any:
    """The module in the file ``path``."""
    spec = spec_from_file_location(f"bouquet_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


PACKAGE = Path(__file__).parents[2]
errors, process = load_file(PACKAGE / "errors.py"), load_file(PACKAGE / "process.py")
files, run_folder = load_file(PACKAGE / "files.py"), load_file(Path(__file__).with_name("run_folder.py"))


class NoClientReplied(Exception):
    """The app has ended, and nothing that a client sent was a reply to what it was asked."""


class TooFewReplies(Exception):
    """A phase cannot get the replies that the deployment asks for."""


class Tally:
    """Replies and failures by client.

    Args:
        echo: takes each line for the person.
    """

    def __init__(self, echo: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._echo, self._clock = echo, clock
        self._good, self._failures = Counter[str](), Counter[str]()
        self._reasons: dict[str, str] = {}
        self._told = set[tuple[str, str]]()
        self._waiting_since: float | None = None

    def looked(self, nodes: int) -> None:
        """The app has asked which clients there are. One that asks again and again waits for more."""
        if self._waiting_since is None:
            self._waiting_since = self._clock()
        elif 0 <= self._waiting_since < self._clock() - WAITING_S:
            self._waiting_since = -1.0
            self._echo(f"the app waits for more clients than the {nodes} that are connected")

    def sent(self) -> None:
        """The app has sent messages."""
        self._waiting_since = -1.0

    def replied(self, client: str, failure: str | None) -> None:
        """A reply has come; ``failure`` is its reason where it is an error."""
        if failure is None:
            self._good[client] += 1
            return
        lines = _RAISED.sub(r"\1: \2", failure).strip().splitlines()
        reason = lines[-1][:300] if lines else "no reason given"
        self._failures[client] += 1
        self._reasons[client] = reason
        if (client, reason) not in self._told and len(self._told) < MOST_LINES:
            self._told.add((client, reason))
            self._echo(f"{client} failed: {reason}")

    def give_up(self, reason: str) -> None:
        """Raise TooFewReplies, and say why."""
        self._echo(f"{errors.STATUS_LINE}{errors.FAILED}")
        self._echo(f"error: {reason}")
        raise TooFewReplies(reason)

    def conclude(self, app: str, sentence: str = "") -> str:
        """The app of this name has ended; whether as ``completed``, or on a ``subset`` of the clients.

        Raises NoClientReplied where clients failed and none replied well.

        Args:
            app: its name.
            sentence: who took part.
        """
        if not self._failures:
            if sentence:
                self._echo(f"finished: {sentence}")
            return "completed"
        if not self._good:
            clients = ", ".join(sorted(self._failures))
            reason = f"no client of {app} replied without an error: {clients}; {next(iter(self._reasons.values()))}"
            self._echo(f"{errors.STATUS_LINE}{errors.FAILED}")
            self._echo(f"error: {reason}")
            raise NoClientReplied(reason)
        total = self._good + self._failures
        for client, failed in sorted(self._failures.items()):
            self._echo(f"{client}: {failed} of {total[client]} replies were errors: {self._reasons[client]}")
        self._echo(f"finished on a subset of the clients{': ' if sentence else ''}{sentence}")
        self._echo(f"{errors.STATUS_LINE}{errors.SUBSET}")
        return "subset"

    def failures(self) -> dict[str, dict[str, Any]]:
        """Of each client that failed: how often, and why the last time."""
        return {
            client: {"failed": failed, "replied": self._good[client], "reason": self._reasons[client]}
            for client, failed in sorted(self._failures.items())
        }


class Pauses:
    """Takes the place of the module ``time`` in Flower's grid."""

    def __init__(self) -> None:
        self.at_once = False

    def sleep(self, seconds: float) -> None:
        """Sleep as Flower asks, but not where the SuperLink has held the question or replies have come."""
        if not (self.at_once and seconds == STOCK_PAUSE_S):
            time.sleep(seconds)

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)


class HttpGrid(http_grid.HttpGrid):  # type: ignore[misc]
    """Flower's grid, with a tally of what comes back. Its name tells apps which grid they have."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.tally = Tally(lambda line: print(line, flush=True))
        self.following: Any = None  # of an app that is not Bouquet's own
        self._names: dict[int, str] = {}

    def close(self) -> None:
        """End the connection, which Flower does when it has reported the end."""
        super().close()
        with suppress(OSError):
            os.write(reports, b"1")

    @property
    def is_foreign(self) -> bool:
        """Whether the app is not Bouquet's own."""
        return bool(self._run is not None and self._run.fab_id != OWN_APP)

    def get_nodes(self) -> Iterable[Any]:
        """The nodes that are online."""
        nodes = list(super().get_nodes())
        # What the SuperLink keeps of a member behind the name and a space is not for people.
        self._names |= {node.node_id: node.name.partition(" ")[0] or f"node {node.node_id}" for node in nodes}
        if self.is_foreign:
            self.tally.looked(len(nodes))
        return nodes

    def push_messages(self, messages: Iterable[Any]) -> Iterable[str]:
        """Send messages."""
        following = self.following
        if following is None:
            return list(super().push_messages(messages))
        if following.too_few:
            self.tally.give_up(following.too_few)
        self.tally.sent()
        messages = list(messages)
        following.limit(messages)
        sent = list(super().push_messages(messages))
        following.sent(sent, messages)
        return sent

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Any]:
        """Fetch the replies that have come, and errors in place of those that are not waited for any more."""
        asked, following = time.monotonic(), self.following
        wanted = set(message_ids)
        replies: list[Any] = list(super().pull_messages(following.present(wanted) if following else wanted))
        pauses.at_once = bool(replies) or time.monotonic() - asked > HELD_S
        if following is None:
            return replies
        replies, forgotten = following.replies(wanted, replies)
        for message_id in forgotten:
            self._runtime_client.ConfirmMessageReceived(
                http_grid.ConfirmMessageReceivedRequest(
                    node=self.node, run_id=self.run.run_id, message_object_id=message_id
                )
            )
        return replies

    def follow(self, own: Any, folder: Path, settings: Mapping[str, Any]) -> None:
        """From now on the messages are of an app that is not Bouquet's own; ``own`` are the modules for it."""

        def resend(message: Any) -> str:
            return next(iter(super(HttpGrid, self).push_messages([message])), None) or ""

        self.following = own.following.follow(
            folder,
            resend=resend,
            online=lambda: {node.node_id for node in super(HttpGrid, self).get_nodes()},
            name_of=self._name_of,
            counted=self.tally.replied,
        )
        self.following.begin(str(self.run.run_id), settings)

    def conclude(self) -> str:
        """The app has ended; how, and what it raises, as :meth:`Tally.conclude`."""
        self.following.give_up_rest(NO_REPLY)
        if self.following.too_few:
            self.tally.give_up(self.following.too_few)
        sentence = self.following.participation.sentence() if self.following.has_rounds else ""
        return self.tally.conclude(self.run.fab_id, sentence)

    def _name_of(self, node: int) -> str:
        if node not in self._names:
            self.get_nodes()
        return self._names.setdefault(node, f"node {node}")


class Own(NamedTuple):
    """Modules of this package that serve another app."""

    following: Any
    keeping: Any


def own_modules() -> Own:
    """Import what serves another app, and then forget this package's name, which the app may use for its own.

    ``bouquet`` stays, for apps that import it.
    """
    found = Own(import_module("app.fleet.serverapp.following"), import_module("app.fleet.serverapp.keeping"))
    # It imports `keep` when it is asked, which would be a second copy then.
    vars(import_module("bouquet"))["keep"] = found.keeping.keep
    for name in [name for name in sys.modules if name.partition(".")[0] == "app"]:
        del sys.modules[name]
    return found


pauses = Pauses()
reports = -1
run_app = runtime.run_


def run_and_conclude(grid: HttpGrid, **arguments: Any) -> Any:
    """Run the app, and look at what came of it."""
    if not grid.is_foreign:
        return run_app(grid=grid, **arguments)
    context, app = arguments["context"], str(Path(arguments["server_app_dir"]).absolute())
    summary = {"app": grid.run.fab_id, "app_hash": grid.run.fab_hash, "settings": dict(context.run_config)}
    folder = run_folder.RunFolder.of_run(context.run_id, summary, files)
    own = own_modules()
    with kept():
        folder.enter()
    own.keeping.PLACE.folder, own.keeping.PLACE.app = folder.path, grid.run.fab_hash
    grid.follow(own, folder.path, context.run_config)
    status, reason = "interrupted", ""
    try:
        result = run_app(grid=grid, **arguments | {"server_app_dir": app})
        status = grid.conclude()
        print(f"results in {folder.path}", flush=True)
    except Exception as error:
        status, reason = "failed", f"{type(error).__name__}: {error}"
        raise
    finally:
        grid.following.end(status, reason)
        folder.summary |= grid.following.told() | {"failures": grid.tally.failures()}
        for strategy in own.keeping.PLACE.kept:
            folder.summary |= strategy.report()
        with kept():
            folder.end(status, reason)
    return result


@contextmanager
def kept() -> Iterator[None]:
    """A folder that cannot be written ends no run."""
    try:
        yield
    except OSError as error:
        print(f"warning: results cannot be written: {error}", flush=True)


def main() -> None:
    """Be the ServerApp's process."""
    global reports
    reports = int(sys.argv.pop(1))
    os.set_inheritable(reports, False)  # the app's own children must not hold it open
    process.end_with_parent(parent=os.getppid())
    http_grid.time = pauses
    runtime.HttpGrid, runtime.run_ = HttpGrid, run_and_conclude
    flwr_serverapp()


if __name__ == "__main__":
    main()
