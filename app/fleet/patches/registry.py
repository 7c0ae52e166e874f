"""What is replaced in Flower: each patch is a declared object, and this module alone installs and undoes them.

A process chooses from its tuple of patches (``tables.py``), in two steps:

    selection = select(SUPERLINK, context, switches)   # looks at the untouched Flower, imports nothing else
    installed = selection.install()                    # replaces the names, in the tuple's order

A patch whose needs this Flower does not meet stays off, one line says so, and Flower works its own way. A required
patch refuses to start instead. Several patches may wrap the same name, so all needs are checked before the first
name is replaced, and ``undo`` goes backwards.
"""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from app.errors import UserError
from app.packing import internals

log = logging.getLogger("flwr")


@dataclass(frozen=True)
class Patch:
    """One part of Flower that is replaced.

    Attributes:
        name: in ``BOUQUET_PATCHES`` and in the log.
        process: the process it runs in.
        purpose: what for.
        without: what it costs to be without it.
        needs: dotted names that it uses or replaces, each with a digest of the source it was written against.
        apply: replaces the names, given a :class:`Flower` and the context of the process.
        required: whether the process refuses to start without it.
        only_with: attribute of the context without which the patch means nothing; empty for always.
        after: patches that must be installed before it, where they are on: it wraps what they put there.
    """

    name: str
    process: str
    purpose: str
    without: str
    needs: Mapping[str, str]
    apply: Callable[["Flower", Any], None]
    required: bool = False
    only_with: str = ""
    after: tuple[str, ...] = ()


class Flower:
    """Flower's names as one patch sees them. It replaces what the patch declared, and nothing else."""

    def __init__(self, patch: Patch, undo: list[Callable[[], None]]) -> None:
        self._patch, self._undo = patch, undo

    def __getitem__(self, name: str) -> Any:
        """What ``name`` stands for now. Raises KeyError for a name that the patch does not declare."""
        if name not in self._patch.needs:
            raise KeyError(f"patch {self._patch.name} does not declare {name}")
        return internals.find(name)

    def replace(self, name: str, value: Any) -> None:
        """Put ``value`` in the place of ``name``. Raises KeyError for a name that the patch does not declare."""
        stock = self[name]
        owner, attribute = internals.owner_of(name)
        setattr(owner, attribute, value)
        self._undo.append(lambda: setattr(owner, attribute, stock))


@dataclass
class Installed:
    """The patches of a process that are on; as a context manager it undoes them at the end."""

    on: frozenset[str]
    _undo: list[Callable[[], None]] = field(default_factory=list)

    def undo(self) -> None:
        """Put back every name that was replaced, the latest first."""
        while self._undo:
            self._undo.pop()()

    def __enter__(self) -> "Installed":
        return self

    def __exit__(self, *_: object) -> None:
        self.undo()


@dataclass
class Selection:
    """The patches that a process will install, and why others stay off."""

    patches: list[Patch]
    context: Any
    off: dict[str, str] = field(default_factory=dict)

    def __contains__(self, name: str) -> bool:
        return any(patch.name == name for patch in self.patches)

    def drop(self, name: str, reason: str) -> None:
        """Leave a patch off after all, and say so. Raises UserError where it is required."""
        for patch in [patch for patch in self.patches if patch.name == name]:
            self.patches.remove(patch)
            self.off[name] = reason
            _report(patch, reason)

    def install(self) -> Installed:
        """Replace the names. Returns what is on; a patch that fails leaves none behind."""
        installed = Installed(frozenset(patch.name for patch in self.patches))
        try:
            for patch in self.patches:
                patch.apply(Flower(patch, installed._undo), self.context)
        except BaseException:
            installed.undo()
            raise
        return installed


def select(patches: Sequence[Patch], context: Any, switches: str = "") -> Selection:
    """Choose the patches that this Flower and ``BOUQUET_PATCHES`` (``switches``) allow.

    Raises:
        UserError: a required patch cannot be installed or is switched off.
        ValueError: the order of ``patches`` contradicts their ``after``.
    """
    selection, ahead = Selection([], context), [patch.name for patch in patches]
    for patch in patches:
        ahead.remove(patch.name)
        if wrong := [name for name in patch.after if name in ahead]:
            raise ValueError(f"patch {patch.name} goes after {wrong[0]}")
        if patch.only_with and not getattr(context, patch.only_with):
            continue
        selection.patches.append(patch)
        if reason := why_off(patch, switches):
            selection.drop(patch.name, reason)
    return selection


def why_off(patch: Patch, switches: str) -> str:
    """Why ``patch`` stays off; empty where it does not."""
    if internals.switched_off(patch.name, switches, patch.required):
        return "BOUQUET_PATCHES switches it off"
    return internals.difference(patch.needs)


def check_switches(switches: str, known: Iterable[str]) -> None:
    """Raise UserError where ``BOUQUET_PATCHES`` holds anything but ``-name`` of a known patch, or ``-all``."""
    names = sorted({*known, internals.ALL})
    for word in filter(None, (word.strip() for word in switches.split(","))):
        if not word.startswith("-") or word[1:] not in names:
            raise UserError(
                f"BOUQUET_PATCHES: {word!r} switches no patch off; write -NAME, separated by commas, "
                f"where NAME is one of {', '.join(names)}"
            )


def _report(patch: Patch, reason: str) -> None:
    if patch.required:
        raise UserError(
            f"patch {patch.name} cannot be left out: {reason}. Without it, {patch.without}; "
            "install flwr 1.39, and take it out of BOUQUET_PATCHES"
        )
    log.warning(internals.LINE, patch.name, reason, patch.without)
