"""What a site requires of a run's settings."""

from typing import Any

import pytest

from app.errors import UserError
from app.fleet.site.requirements import parse_requirements, unmet

KEPT: dict[str, Any] = {
    "privacy": "local", "local-epsilon": 1.0, "clipping-norm": 1.0, "local-sensitivity": 0.0, "augment": True,
}  # fmt: skip
RULES = parse_requirements("privacy=local|central-fixed local-epsilon<=2 clipping-norm<=1.0 augment=true")


def test_a_run_that_keeps_to_the_rules_passes() -> None:
    assert unmet(RULES, KEPT) == []
    assert unmet(RULES, {**KEPT, "local-epsilon": 2}) == []
    assert unmet(parse_requirements(""), {}) == []


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("privacy", "none"), ("privacy", None), ("privacy", "local|central-fixed"), ("local-epsilon", 2.5),
        ("local-epsilon", float("nan")), ("local-epsilon", "1"), ("local-epsilon", True), ("clipping-norm", None),
        ("augment", False),
    ],
)  # fmt: skip
def test_what_differs_or_is_missing_is_named(key: str, value: Any) -> None:
    config = {**KEPT, key: value} if value is not None else {k: v for k, v in KEPT.items() if k != key}
    (missed,) = unmet(RULES, config)
    assert missed.startswith(key)


@pytest.mark.parametrize("sensitivity", [1e-9, 1.9, -1.0, float("nan"), "2"])
def test_local_noise_cannot_be_made_small_by_another_setting(sensitivity: Any) -> None:
    rules = parse_requirements("privacy=local")
    (missed,) = unmet(rules, {**KEPT, "local-sensitivity": sensitivity})
    assert missed.startswith("local-sensitivity")
    assert unmet(rules, {**KEPT, "local-sensitivity": 2.0}) == []


@pytest.mark.parametrize(
    "text", ["privacy", "privacy==local", "local-epsilon<=much", "Privacy=local", "epsilon<2"]
)
def test_a_rule_with_a_typing_error_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="BOUQUET_SITE_REQUIRE holds"):
        parse_requirements(f"privacy=local {text}")
