"""What Bouquet has for other programs: ``keep`` for Flower apps, ``load_model`` for the model of a run."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from app.fleet.serverapp.keeping import keep
    from app.models.load import load_model

__all__ = ["keep", "load_model"]


def __getattr__(name: str) -> Any:
    """Import what is asked for, and not torch for an app without it."""
    if name == "keep":
        from app.fleet.serverapp.keeping import keep

        return keep
    if name == "load_model":
        from app.models.load import load_model

        return load_model
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
