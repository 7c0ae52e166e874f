"""What Bouquet has for other Flower apps: ``from bouquet import keep``."""

from app.fleet.serverapp.keeping import keep

__all__ = ["keep"]
