"""What an app asks for is compared with what is here."""

import pytest
from packaging.requirements import Requirement

from app.errors import UserError
from app.fleet.dependencies.requirements import Package, asked, compare, installed_here

HERE = {
    "flwr": Package("1.39.0", ("ray==2.51; extra == 'simulation'",)),
    "torch": Package("2.9.1+cpu"),
    "numpy": Package("2.3.1"),
    "sci-kit": Package("1.5", ("pandas>=2; extra == 'frames'", "numpy>=1")),
}


@pytest.mark.parametrize(
    ("requirements", "missing"),
    [
        (["flwr[simulation]>=1.39", "torch>=2", "Sci_Kit"], []),
        (["torch==2.9.1", "numpy>=2.0rc1"], []),
        (["xgboost>=2", "xgboost>=2"], ["xgboost>=2"]),
        (["sci-kit[frames]"], ["pandas>=2"]),
        (["nowhere; python_version < '3'", "here; python_version >= '3'"], ['here; python_version >= "3"']),
        (["mine @ https://example.org/mine-1.0.zip"], ["mine@ https://example.org/mine-1.0.zip"]),
    ],
)
def test_what_is_not_here_is_missing(requirements: list[str], missing: list[str]) -> None:
    found = compare([Requirement(text) for text in requirements], HERE)
    assert [str(each) for each in found.missing] == missing and not found.conflicts


def test_another_version_is_a_conflict_that_names_both() -> None:
    found = compare([Requirement("numpy<2"), Requirement("flwr>=1.40")], HERE)
    assert not found.missing
    assert [str(each) for each in found.conflicts] == [
        "the app asks for numpy<2, and here is numpy 2.3.1",
        "the app asks for flwr>=1.40, and here is flwr 1.39.0",
    ]


@pytest.mark.parametrize("dependencies", [["numpy >> 2"], [3]])
def test_a_requirement_that_cannot_be_read_is_named(dependencies: list[object]) -> None:
    with pytest.raises(UserError, match=r"dependencies in the app's pyproject\.toml: .*; mend it"):
        asked({"project": {"dependencies": dependencies}})


def test_the_packages_of_this_python_are_known() -> None:
    assert installed_here()["flwr"].version.startswith("1.39")
