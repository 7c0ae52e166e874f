"""What there is to get on the client; the test that runs this app writes its own."""

from typing import Any

TARGETS: dict[str, Any] = {}
