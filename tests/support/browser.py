"""A real browser: Debian's Chromium (`apt-get install chromium`), driven by Playwright."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from container_engine import cannot_run
from playwright.sync_api import Page, sync_playwright


@contextmanager
def browser_page(**context: Any) -> Iterator[Page]:
    """A page of a browser that starts with nothing kept; ``context`` is Playwright's (``viewport``, ``color_scheme``, …)."""
    chromium = next(filter(None, map(shutil.which, ("chromium", "google-chrome"))), None)
    if chromium is None:
        cannot_run("there is no chromium: apt-get install chromium")
    with sync_playwright() as playwright:
        # Tests run as root, for whom Chromium's sandbox does not start. The pages are our own.
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        try:
            yield browser.new_page(**context)
        finally:
            browser.close()
