"""Fixtures of the tests of the rounds."""

import pytest
from in_process import little_to_collect

_little_to_collect = pytest.fixture(autouse=True, scope="module")(little_to_collect)
