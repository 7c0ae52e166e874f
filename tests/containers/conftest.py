"""A federation in real containers: projects with names of their own, everything removed."""

from collections.abc import Iterator

import pytest
from compose_stack import Stack


@pytest.fixture(scope="session")
def trained(images: str) -> Iterator[Stack]:
    """Ten CPU clients that have trained once on digits, still up."""
    stack = Stack(images, {"DATASET": "digits", "NUM_CLIENTS": "10"})
    try:
        # Literally what the README says, plus --detach.
        stack.compose("up", "--detach", "--scale", "supernode-cpu=10", timeout=600)
        stack.wait("train", timeout=900)
        yield stack
    finally:
        stack.remove()
