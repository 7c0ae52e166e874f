"""Names of Flower that are not public: where they are, and whether they are still what they were.

A need is a dotted name, ``module:Qualified.name``, with a digest of the source that was read when the code that uses it
was written. An empty digest asks only that the name is there, as for a class, a module or a constant.
"""

import hashlib
import inspect
from collections.abc import Mapping
from importlib import import_module
from types import FunctionType, MethodType
from typing import Any

from app.environment import AppEnvironment, read

ALL = "all"
LINE = "Patch %s is off: %s. Without it, %s."  # name, reason, cost


def find(name: str) -> Any:
    """What ``name`` stands for. Raises ImportError or AttributeError where it is not there."""
    owner, attribute = owner_of(name)
    return getattr(owner, attribute) if attribute else owner


def owner_of(name: str) -> tuple[Any, str]:
    """The module or class that holds ``name``, and the attribute; an empty one for a module itself."""
    module, _, path = name.partition(":")
    owner: Any = import_module(module)
    *classes, attribute = path.split(".")
    for each in classes:
        owner = getattr(owner, each)
    return owner, attribute


def digest(value: Any) -> str:
    """A digest of the source of a function; empty for anything else: a class takes long to find in its file."""
    if isinstance(value, property):
        value = value.fget
    if isinstance(value, MethodType):
        value = value.__func__
    if not isinstance(inspect.unwrap(value) if callable(value) else value, FunctionType):
        return ""
    return hashlib.sha256(inspect.getsource(value).encode()).hexdigest()[:12]


def difference(needs: Mapping[str, str]) -> str:
    """How this Flower differs from what is needed, in a few words; empty where all is as it was."""
    for name, expected in needs.items():
        try:
            value = find(name)
            if expected and digest(value) != expected:
                return f"{name} is not what it was in Flower 1.39.0"
        except (ImportError, AttributeError):
            return f"Flower has no {name}"
        except OSError:
            return f"the source of {name} cannot be read"
    return ""


def switched_off(name: str, switches: str, required: bool = False) -> bool:
    """Whether ``BOUQUET_PATCHES`` switches the patch ``name`` off: ``-long-polls,-warm``, or ``-all`` optional ones."""
    named = {word.strip().removeprefix("-") for word in switches.split(",")}
    return name in named or (ALL in named and not required)


def usable(name: str, needs: Mapping[str, str]) -> str:
    """Why the patch ``name`` cannot be used in the process of an app; empty where it can."""
    if switched_off(name, read(AppEnvironment).patches):
        return "BOUQUET_PATCHES switches it off"
    return difference(needs)
