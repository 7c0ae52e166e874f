"""The images are built once for all container tests."""

from tests.containers.conftest import engine, images

__all__ = ["engine", "images"]
