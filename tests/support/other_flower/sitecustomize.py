"""A Flower that differs in one name, for the tests of what happens when Flower changes.

Python imports this module when its folder is on PYTHONPATH. One of these variables holds a dotted name of Flower:

    RENAMED_IN_FLOWER   the name is called otherwise in the source of every module of Flower, as in a next release
    HIDDEN_IN_FLOWER    the name is there for Flower and for the library that it belongs to, and missing for everyone else
    CHANGED_IN_FLOWER   the method is there, and the source of every method of its name is not what it was
"""

import inspect
import io
import os
import sys
import tokenize
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

SUFFIX = "_of_the_next_release"
renamed = os.environ.get("RENAMED_IN_FLOWER", "").rpartition(":")[2]
hidden_in, _, hidden = os.environ.get("HIDDEN_IN_FLOWER", "").partition(":")
packages = ("flwr", hidden_in.partition(".")[0] or "flwr")
changed = os.environ.get("CHANGED_IN_FLOWER", "").rpartition(".")[2]


def rename(source: str, name: str) -> str:
    """``source`` with every NAME token ``name`` called otherwise; text in quotes stays, for it goes over the wire."""
    lines = source.splitlines(keepends=True)
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    for row, column in reversed([t.start for t in tokens if t.type == tokenize.NAME and t.string == name]):
        line = lines[row - 1]
        lines[row - 1] = line[:column] + name + SUFFIX + line[column + len(name) :]
    return "".join(lines)


class Hiding(ModuleType):
    """A module one of whose names only Flower and the module's own library see."""

    def __getattribute__(self, name: str) -> Any:
        if name == hidden and not sys._getframe(1).f_globals.get("__name__", "").startswith(packages):
            raise AttributeError(f"module has no attribute {name!r}")
        return super().__getattribute__(name)


class Loader(SourceFileLoader):
    """Loads a module of this other Flower."""

    def get_code(self, fullname: str) -> CodeType | None:
        source = Path(self.path).read_text(encoding="utf-8")
        if not renamed or renamed not in source:
            return super().get_code(fullname)
        return compile(rename(source, renamed), self.path, "exec", dont_inherit=True)

    def exec_module(self, module: ModuleType) -> None:
        super().exec_module(module)
        if module.__name__ == hidden_in:
            module.__class__ = Hiding


class Finder:
    """Finds modules as ever, and has them loaded by :class:`Loader`."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name.partition(".")[0] not in packages:
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and type(spec.loader) is SourceFileLoader:
            spec.loader = Loader(spec.loader.name, spec.loader.path)
        return spec


if renamed or hidden:
    sys.meta_path.insert(0, Finder())
if changed:
    _stock = inspect.getsource

    def getsource(value: Any) -> str:
        return _stock(value) + ("# changed\n" if getattr(value, "__name__", "") == changed else "")

    inspect.getsource = getsource  # type: ignore[assignment]
