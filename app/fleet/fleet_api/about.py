"""What a SuperLink tells a member of itself, so that `bouquet doctor` can compare both ends: its clock, versions and data.

A caller signs a moment with its node key, as in every call of Flower's, and the key must be enrolled. Its clock does not
matter, because the clock is what it asks about. Strangers are told nothing.
"""

import json
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import grpc

from app.errors import UserError
from app.fleet.fleet_api.callers import channel_of_member, member_of
from app.fleet.fleet_api.context import Details, Refused
from app.fleet.quiet import Budget
from app.learning.data.store import MANIFEST, Store

METHOD = "/bouquet.Fleet/About"
TIMEOUT_S = 5.0
MOST_QUESTIONS = 60  # of a member within a minute
PACKAGES = ("bouquet", "flwr")


@dataclass(frozen=True)
class Answer:
    """What the SuperLink said.

    Attributes:
        name: the member that asked; empty where nobody has a key.
        versions: of the SuperLink's packages.
        time: its clock, seconds since 1970.
        shape: of the pictures that it evaluates on; None where it has no data.
        classes: their classes; None where it has no data.
        ahead_s: seconds that the clock of who asked is ahead of it.
    """

    name: str
    versions: dict[str, str]
    time: float
    shape: list[int] | None = None
    classes: list[str] | None = None
    ahead_s: float = 0.0


def versions() -> dict[str, str]:
    """The versions of Bouquet and Flower that are installed here."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


class About:
    """The server's side.

    Args:
        nodes: the nodes that the SuperLink knows.
        data: the folder of its data store, or None.
        authenticated: whether callers have keys; a SuperLink for loopback and tests has no members.
    """

    def __init__(self, nodes: Callable[[], Iterable[Any]], data: Path | None, *, authenticated: bool) -> None:
        self._nodes, self._data, self._authenticated = nodes, data, authenticated
        self._budget = Budget(MOST_QUESTIONS)

    def answer(self, details: Details) -> bytes:
        """Answer a member. Raises Refused for anyone else."""
        name = member_of(self._nodes, details) if self._authenticated else ""
        if not self._budget.take(name):
            raise Refused(grpc.StatusCode.RESOURCE_EXHAUSTED, "Refused: it asks too often")
        said = Answer(name, versions(), time.time(), *self._described())
        return json.dumps(asdict(said)).encode()

    def _described(self) -> tuple[list[int] | None, list[str] | None]:
        if self._data is None or not (self._data / MANIFEST).is_file():
            return None, None
        try:
            manifest = Store.open(self._data).manifest
        except UserError:  # the operator's doctor tells it
            return None, None
        return list(manifest.shape), list(manifest.classes)


def ask(address: str, ca: Path | None, keys: tuple[Any, Any] | None, name: str = "") -> Answer:
    """Ask the SuperLink at ``host:port``.

    Args:
        address: where.
        ca: file of the CA's certificate; None for plaintext.
        keys: this client's private and public key; None for plaintext.
        name: a name in the server's certificate, where ``address`` has another.

    Raises:
        UserError: it does not answer the question.
    """
    channel = channel_of_member(address, ca, keys, name)
    with channel:
        question = partial(channel.unary_unary(METHOD), b"", timeout=TIMEOUT_S)
        try:
            question()  # so that the second one takes as long as the way
            before = time.time()
            said = json.loads(question())
        except grpc.RpcError as error:
            raise _unanswered(error) from None
        except ValueError:
            raise _of_another_kind() from None
        middle = (before + time.time()) / 2
    return Answer(**said | {"ahead_s": middle - said["time"]})


def _of_another_kind() -> UserError:
    return UserError(
        "the SuperLink tells nothing about itself: it is Flower's own, or an older Bouquet; install the same on both ends"
    )


def _unanswered(error: grpc.RpcError) -> UserError:
    if error.code() is grpc.StatusCode.UNIMPLEMENTED:
        return _of_another_kind()
    if error.code() is grpc.StatusCode.UNAUTHENTICATED:
        return UserError(
            "the SuperLink does not know this client's key; have it enrolled there (`bouquet enroll NAME KEY.pub`)"
        )
    return UserError(
        f"the SuperLink did not answer a member's question ({error.code().name.lower()}); look at its log"
    )
