"""A ServerApp's process: Flower's ``flwr-serverapp``, whose grid waits less and says which clients failed.

``python -P program.py FD ARGUMENTS``, with those of ``flwr-serverapp``. It writes a byte to FD when it has reported its end
to the SuperLink. It imports nothing of this package, because an app may have one of the same name. It adds, for any app:

* the process ends with its SuperExec;
* ``send_and_receive`` asks again at once where the SuperLink holds requests, and not after 3 s;
* a client's error is said when it comes, with the client's name, and the run fails where no client ever replied well;
* the run has a folder in the results, where the app works (``run_folder.py``).

Bouquet's own app looks after its clients itself.

Read in flwr 1.39.0: ``superlink/grid/http_grid.py``, ``superlink/runtime/run_serverapp.py``. The patch ``serverapp`` lists
the names used here, and the registry checks them before anything of this runs.
"""

import os
import re
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

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

    def conclude(self, app: str) -> str:
        """The app of this name has ended; whether as ``completed``, or on a ``subset`` of the clients.

        Raises NoClientReplied where clients failed and none replied well.
        """
        if not self._failures:
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
        self._echo("finished on a subset of the clients")
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
        self._names: dict[int, str] = {}
        self._sent: dict[str, int] = {}  # node by id of a message that has no reply yet
        self._awaited = set[str]()  # those that the app has asked for

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
        self.tally.sent()
        messages = list(messages)
        sent = list(super().push_messages(messages))
        self._sent |= {
            key: message.metadata.dst_node_id for key, message in zip(sent, messages, strict=False)
        }
        return sent

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Any]:
        """Fetch the replies that have come."""
        asked = time.monotonic()
        wanted = set(message_ids)
        replies = list(super().pull_messages(wanted))
        pauses.at_once = bool(replies) or time.monotonic() - asked > HELD_S
        answered = {reply.metadata.reply_to_message_id for reply in replies}
        self._awaited = (self._awaited | wanted) - answered
        for message_id in answered:
            self._sent.pop(message_id, None)
        for reply in replies if self.is_foreign else ():
            self._count(reply.metadata.src_node_id, (reply.error.reason or "") if reply.has_error() else None)
        return replies

    def conclude(self) -> str:
        """The app has ended; how, and what it raises, as :meth:`Tally.conclude`."""
        for message_id in self._awaited & self._sent.keys():
            self._count(self._sent[message_id], NO_REPLY)
        return self.tally.conclude(self.run.fab_id)

    def _count(self, node: int, failure: str | None) -> None:
        if node not in self._names:
            self.get_nodes()
        self.tally.replied(self._names.get(node, f"node {node}"), failure)


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
    with kept():
        folder.enter()
    status, reason = "interrupted", ""
    try:
        result = run_app(grid=grid, **arguments | {"server_app_dir": app})
        status = grid.conclude()
        print(f"results in {folder.path}", flush=True)
    except Exception as error:
        status, reason = "failed", f"{type(error).__name__}: {error}"
        raise
    finally:
        folder.summary["failures"] = grid.tally.failures()
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
