"""The apps that a client accepts, by the hashes of their bundles.

A SuperNode executes the app that the server sends. So a client executes only the app of its own image or checkout, unless
its operator names others in `BOUQUET_ALLOWED_APPS`, or says that any may run.
"""

import hashlib
import re
from collections.abc import Callable, Collection

from app.errors import UserError

_SHA256 = re.compile(r"[0-9a-f]{64}")
ANY, OWN = "any", "own"
_WAY_OUT = (
    "give the 64 digits that `bouquet app-hash` prints, separated by commas, own for the app of this installation, "
    "or any"
)


class AllowedApps(frozenset[str]):
    """Hashes, and `own` or `any`."""

    def __str__(self) -> str:
        return ",".join(sorted(self))


THE_OWN = AllowedApps({OWN})


def parse_allowed(text: str) -> AllowedApps:
    """Return what a list (`BOUQUET_ALLOWED_APPS`) allows, separated by commas.

    Raises UserError for a part that is no hash, and for a list of separators. A list with a typing error must not count as
    another one.
    """
    allowed = AllowedApps(part.lower() for part in re.split(r"[,\s]+", text) if part)
    for value in sorted(allowed - {ANY, OWN}):
        if not _SHA256.fullmatch(value):
            raise UserError(f"BOUQUET_ALLOWED_APPS holds {value!r}, which is no app hash: {_WAY_OUT}")
    if not allowed:
        raise UserError(f"BOUQUET_ALLOWED_APPS={text!r} names no app: {_WAY_OUT}")
    if ANY in allowed and len(allowed) > 1:
        raise UserError(
            "BOUQUET_ALLOWED_APPS names apps beside any, which allows every other as well: drop one"
        )
    return allowed


def with_own(allowed: AllowedApps, app_hash: Callable[[], str]) -> AllowedApps:
    """The list with the hash of the own app in the place of `own`. Raises UserError where there is no own app."""
    if OWN not in allowed:
        return allowed
    try:
        return AllowedApps(allowed - {OWN} | {app_hash()})
    except UserError as error:
        raise UserError(
            f"BOUQUET_ALLOWED_APPS=own: {error}; or name the apps by their hashes, or any"
        ) from None


def describe(allowed: AllowedApps) -> str:
    """One line for the log: what may run."""
    if ANY in allowed:
        return "any app may run here, because BOUQUET_ALLOWED_APPS says so"
    return f"only these apps may run here: {', '.join(sorted(allowed))}"


def is_allowed(content: bytes, allowed: Collection[str]) -> bool:
    """Whether a client with this list may run the bundle `content`.

    The client computes the hash of the bytes that would run, and does not rely on a hash that the server sends.
    """
    return ANY in allowed or hashlib.sha256(content).hexdigest() in allowed
