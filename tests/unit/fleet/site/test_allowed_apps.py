"""The apps that a client accepts."""

import hashlib

import pytest

from app.errors import UserError
from app.fleet.site.allowed_apps import describe, is_allowed, parse_allowed, with_own

GOOD = hashlib.sha256(b"good").hexdigest()


def test_only_listed_apps_are_allowed() -> None:
    allowed = parse_allowed(f" {GOOD.upper()}, {'0' * 64}\n")
    assert is_allowed(b"good", allowed)
    assert not is_allowed(b"evil", allowed)
    assert GOOD in describe(allowed)


def test_any_app_is_allowed_where_that_is_said_and_nowhere_else() -> None:
    assert is_allowed(b"anything", parse_allowed("any"))
    assert "any app may run" in describe(parse_allowed("any"))
    for text in (" ", ",", ", ,\n"):
        with pytest.raises(UserError, match="names no app"):
            parse_allowed(text)
    with pytest.raises(UserError, match="beside any"):
        parse_allowed(f"any,{GOOD}")


def test_the_own_app_is_known_by_its_hash() -> None:
    allowed = with_own(parse_allowed(f"own,{'0' * 64}"), lambda: GOOD)
    assert is_allowed(b"good", allowed) and not is_allowed(b"evil", allowed)

    def missing() -> str:
        raise UserError("no app is here")

    with pytest.raises(UserError, match="BOUQUET_ALLOWED_APPS=own: no app is here"):
        with_own(parse_allowed("own"), missing)
    assert with_own(parse_allowed(GOOD), missing) == parse_allowed(GOOD)


@pytest.mark.parametrize("text", ["abc", "0" * 63, f"{'0' * 64},typo", "sha256:" + "0" * 64])
def test_a_list_with_a_typing_error_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="BOUQUET_ALLOWED_APPS holds"):
        parse_allowed(text)
