"""Fresh random numbers in every fork of a warm process, unless the app seeds itself.

A fork copies the state of every random generator. Without care, each message would draw the same numbers: the same
shuffle, the same dropout, and the same privacy noise, which two rounds together would reveal. In stock Flower each
message has a process of its own, so a generator is as fresh, or as seeded, as the app's import leaves it. After
:func:`renew` the same holds for a fork:

* a global generator of ``random``, NumPy or PyTorch is seeded from the operating system, unless the app's import
  gave it a seed. Then it starts from that seed in each message;
* generator objects that the app's import made without a seed are seeded anew as well.

CUDA's generators are not touched: a process that forks has not started CUDA, which seeds them when it starts.
OpenSSL and Python's own ``random`` have fork hooks, and ``os.fork`` runs them.

Like ``parent.py``, this module imports nothing of this package. Read in NumPy 2.4 and PyTorch 2.15.
"""

import gc
import random
import sys
import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from importlib import import_module
from typing import Any, NamedTuple

# A generator of PyTorch does not tell who seeded it. People type smaller seeds than this, and ``Generator.seed()`` draws
# 64 bits. A generator that nobody seeded starts with the constant, in stock Flower as well.
LARGEST_TYPED_SEED = 1 << 32
TORCH_DEFAULT_SEED = 67280421310721


class _Global(NamedTuple):
    """The global generator of a library: where its functions stand, and what they are called."""

    modules: tuple[str, ...]
    seed: tuple[str, ...]
    get_state: str
    set_state: str
    renew: Callable[[Any], object] | None  # takes the first module; None: its own fork hook does it


_GLOBALS = {
    "random": _Global(("random",), ("seed",), "getstate", "setstate", None),
    "numpy": _Global(("numpy.random",), ("seed",), "get_state", "set_state", lambda module: module.seed()),
    "torch": _Global(
        ("torch", "torch.random"),
        ("manual_seed", "seed"),
        "get_rng_state",
        "set_rng_state",
        lambda module: module.default_generator.seed(),  # ``torch.seed`` would also note a seed for CUDA
    ),
}

# What the app's import did. Empty in a process that has no app.
_seeded: dict[str, Any] = {}  # global generators that got a seed: the state in which the import left them
_unseeded: list[Callable[[], object]] = []  # seeds one of the app's own generators from the operating system


def renew() -> None:
    """Seed what a fork has inherited; call it in the child before anything draws."""
    for library, names in _GLOBALS.items():
        if (module := sys.modules.get(names.modules[0])) is None:
            continue
        if library in _seeded:
            getattr(module, names.set_state)(_seeded[library])
        elif names.renew is not None:
            names.renew(module)
    for seed in _unseeded:
        seed()


@contextmanager
def watch_import() -> Iterator[None]:
    """Notice which generators an app seeds while it is imported in the body, and which it makes without a seed."""
    entropy: set[int] = set()
    python_generators: weakref.WeakSet[random.Random] = weakref.WeakSet()
    seeded: set[str] = set()
    with ExitStack() as undo:
        _watch_python(undo, python_generators)
        for library, names in _GLOBALS.items():
            if library in sys.modules:
                _watch_global(undo, library, names, seeded)
        _watch_entropy(undo, entropy)
        yield
    for library in seeded:
        names = _GLOBALS[library]
        _seeded[library] = getattr(sys.modules[names.modules[0]], names.get_state)()
    _unseeded.extend(generator.seed for generator in python_generators)
    _unseeded.extend(_own_generators(entropy))


def _watch_global(undo: ExitStack, library: str, names: _Global, seeded: set[str]) -> None:
    """Keep ``library`` in ``seeded`` while its global generator has a seed of the app.

    Saving and restoring a state, as ``torch.random.fork_rng`` does, gives no seed: it brings back what was there.
    """
    modules = [import_module(name) for name in names.modules]
    get, put = (getattr(modules[0], name) for name in (names.get_state, names.set_state))
    without_seed = {_fingerprint(get())}  # states that were there while nobody had given a seed

    def note(has_seed: bool) -> None:
        (seeded.add if has_seed else seeded.discard)(library)

    def get_state(*args: Any, **kwargs: Any) -> Any:
        if library not in seeded:
            without_seed.add(_fingerprint(get()))
        return get(*args, **kwargs)

    def set_state(*args: Any, **kwargs: Any) -> Any:
        result = put(*args, **kwargs)
        note(_fingerprint(get()) not in without_seed)
        return result

    def seeding(stock: Callable[..., Any]) -> Callable[..., Any]:
        def seed(*args: Any, **kwargs: Any) -> Any:
            given = [*args, *kwargs.values()]
            note(bool(given) and given[0] is not None)  # without a value it means fresh entropy
            return stock(*args, **kwargs)

        return seed

    for module in modules:
        _replace(undo, module, names.get_state, get_state)
        _replace(undo, module, names.set_state, set_state)
        for name in names.seed:
            _replace(undo, module, name, seeding(getattr(module, name)))


def _fingerprint(state: Any) -> bytes:
    """A state of ``random``, NumPy or PyTorch as bytes; equal states give equal bytes."""
    found = b""
    for part in state if isinstance(state, tuple) else (state,):
        array = part.numpy() if hasattr(part, "numpy") else part
        found += array.tobytes() if hasattr(array, "tobytes") else repr(array).encode()
    return found


def _watch_python(undo: ExitStack, unseeded: "weakref.WeakSet[random.Random]") -> None:
    """Note which ``random.Random`` objects are made without a seed."""
    stock = random.Random.seed

    def seed(self: random.Random, a: Any = None, version: int = 2) -> None:
        (unseeded.add if a is None else unseeded.discard)(self)
        stock(self, a, version)

    _replace(undo, random.Random, "seed", seed)


def _watch_entropy(undo: ExitStack, entropy: set[int]) -> None:
    """Note the entropy that NumPy takes from the operating system for generators without a seed."""
    if (owner := sys.modules.get("numpy.random.bit_generator")) is None or not hasattr(owner, "randbits"):
        return
    stock = owner.randbits

    def randbits(bits: int) -> int:
        entropy.add(number := stock(bits))
        return int(number)

    _replace(undo, owner, "randbits", randbits)


def _replace(undo: ExitStack, owner: Any, name: str, value: Any) -> None:
    undo.callback(setattr, owner, name, getattr(owner, name))
    setattr(owner, name, value)


def _own_generators(entropy: set[int]) -> Iterator[Callable[[], object]]:
    """What seeds each generator of NumPy and PyTorch that has no seed of the app."""
    numpy_random, torch = sys.modules.get("numpy.random"), sys.modules.get("torch")
    global_state = getattr(getattr(numpy_random, "mtrand", None), "_rand", None)
    candidates = gc.get_objects()
    for module in list(sys.modules.values()):  # some types are unknown to the collector
        candidates.extend(list(getattr(module, "__dict__", {}).values()))
    seen: set[int] = set()
    for each in candidates:
        kind = type(each)
        if id(each) in seen or kind.__name__ not in ("Generator", "RandomState"):
            continue
        seen.add(id(each))
        if numpy_random is not None and isinstance(each, numpy_random.RandomState):
            if each is not global_state and _entropy(each._bit_generator) in entropy:
                yield each.seed
        elif numpy_random is not None and isinstance(each, numpy_random.Generator):
            if _entropy(each.bit_generator) in entropy:
                yield _reseeding(each.bit_generator)
        elif torch is not None and isinstance(each, torch.Generator):
            given = each is torch.default_generator or each.initial_seed() < LARGEST_TYPED_SEED
            if not given and each.initial_seed() != TORCH_DEFAULT_SEED:
                yield each.seed


def _entropy(bit_generator: Any) -> Any:
    return getattr(getattr(bit_generator, "seed_seq", None), "entropy", None)


def _reseeding(bit_generator: Any) -> Callable[[], object]:
    def reseed() -> None:
        bit_generator.state = type(bit_generator)().state

    return reseed
