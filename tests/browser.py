"""A Chromium for the tests of pages."""

import shutil
from collections.abc import Iterator
from typing import Any

import pytest

BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def chromium() -> Iterator[Any]:
    """Yield the browser; a test is skipped where there is none, with what to install."""
    sync_api = pytest.importorskip(
        "playwright.sync_api", reason="no playwright here: pip install playwright"
    )
    binary = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if binary is None:
        pytest.skip(f"no browser here ({', '.join(BROWSERS)}): apt-get install chromium")
    with sync_api.sync_playwright() as playwright:
        # as root Chromium has no sandbox; the page is our own
        made = playwright.chromium.launch(executable_path=binary, args=["--no-sandbox"])
        yield made
        made.close()
