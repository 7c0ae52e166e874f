"""What `bouquet image` would build: the Dockerfile, with the app's packages on top of the images that are there."""

from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from app.errors import UserError
from app.fleet.dependencies.image import build, pip_settings
from app.fleet.deployment import ImageSettings


def _manifest(*dependencies: str) -> dict[str, Any]:
    return {"project": {"name": "sample", "version": "1.0.0", "dependencies": list(dependencies)}}


def _printed(*dependencies: str, **settings: Any) -> str:
    lines: list[str] = []
    build(ImageSettings(print_only=True, **settings), _manifest(*dependencies), b"", lines.append)
    return "\n".join(lines)


def test_the_dockerfile_adds_to_the_images_that_are_there() -> None:
    text = _printed("petals>=1,<2", "numpy", "flwr[simulation]>=1.39", base="2.0")
    assert "FROM bouquet-superlink:2.0 AS superlink\n" in text
    assert "FROM bouquet-supernode:2.0-cpu AS supernode-cpu\n" in text
    assert "FROM bouquet-supernode:2.0 AS supernode\n" in text
    (command,) = [line for line in text.splitlines() if "dependencies.packages" in line]
    assert command == "    python -m app.fleet.dependencies.packages /opt/additions \\"
    assert "    'petals<2,>=1'\n" in text and "numpy" not in text and "ray" not in text
    assert text.count("COPY --from=packages") == text.count("COPY app.fab ./") == 3


def test_wheels_take_the_place_of_the_index() -> None:
    assert "packages --wheels /build/wheels /opt/additions" in _printed(
        "petals", wheels=Path(__file__).parent
    )
    with pytest.raises(UserError, match=r"--wheels=/nowhere is no folder"):
        _printed("petals", wheels=Path("/nowhere"))


def test_an_app_that_asks_for_nothing_more_is_only_copied() -> None:
    text = _printed("numpy")
    assert "RUN" not in text and "PYTHONPATH" not in text and "COPY app.fab ./" in text


def test_a_conflict_names_both_sides_and_ours_may_be_kept() -> None:
    words = rf"the app asks for numpy<2, and here is numpy {version('numpy')}: .* --keep-versions"
    with pytest.raises(UserError, match=words):
        _printed("numpy<2")
    assert "RUN" not in _printed("numpy<2", keep_versions=True)


def test_of_pips_configuration_only_what_a_container_can_reach_is_handed_on() -> None:
    listed = (
        "global.index-url='https://one.example/simple'\n"
        "global.cert='/etc/ssl/ca.crt'\n"
        "global.extra-index-url='file:///opt/simple https://two.example/simple'\n"
        ":env:.index-url='https://three.example/simple'\n"
        ":env:.find-links='/opt/wheels'\n"
    )
    assert pip_settings(listed) == (
        "[global]\nindex-url = https://three.example/simple\nextra-index-url = https://two.example/simple\n"
    )
