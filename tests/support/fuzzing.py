"""How the parsers are fuzzed: bytes and texts near to valid ones, and how many of them.

`BOUQUET_FUZZ=long` asks for the long form, which the scheduled workflow runs.
"""

import os
import random
from collections.abc import Sequence

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

_COMMON = settings(
    deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.large_base_example]
)
# The same cases on each run: what the long form finds becomes a case of its own, and a change is judged by itself.
settings.register_profile("fuzz-short", _COMMON, max_examples=2_000, derandomize=True)
settings.register_profile("fuzz-long", _COMMON, max_examples=100_000)
_FORM = os.environ.get("BOUQUET_FUZZ", "short")
cases = settings.get_profile(f"fuzz-{_FORM}")
# For what takes tens of milliseconds a case, such as a whole data set.
slow_cases = settings(cases, max_examples=cases.max_examples // 20)

_INTERESTING = (
    b"",
    b"\0",
    b"\xff",
    b"\xff" * 8,
    b"\0" * 8,
    b"\x7f" + b"\xff" * 7,
    b"\n",
    b"\x1b[2J",
    b"-1",
    b"9" * 20,
)


def _mutate(seed: bytes, number: int) -> bytes:
    """``seed`` after a few edits: a piece replaced, doubled, moved, cut off, or one bit turned."""
    draw, data = random.Random(number), bytearray(seed)
    for _ in range(draw.randint(1, 4)):
        start, length = draw.randrange(len(data) + 1), draw.choice((1, 1, 2, 4, 8, 32, 256))
        piece = data[start : start + length]
        match draw.randrange(7):
            case 0 if piece:
                data[start] ^= 1 << draw.randrange(8)
            case 1:
                data[start : start + length] = draw.choice(_INTERESTING)
            case 2:
                data[start:start] = piece * draw.choice((1, 2, 50))
            case 3:
                del data[start:]
            case 4:
                data[start : start + len(piece)] = draw.randbytes(len(piece))
            case 5:
                data[start:start] = draw.choice(_INTERESTING)
            case _:
                del data[start : start + length]
    return bytes(data)


def near(seeds: Sequence[bytes], largest: int = 200) -> st.SearchStrategy[bytes]:
    """Bytes near to one of ``seeds``; one time in four any bytes."""
    mutated = st.builds(_mutate, st.sampled_from(seeds), st.integers(0, 2**48))
    return st.one_of(mutated, mutated, mutated, st.binary(max_size=largest))
