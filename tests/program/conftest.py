"""A browser, for the tests of what people see, and a directory for those of what comes in."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.conftest import HANG_SECONDS

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

PATIENCE = 1000 * HANG_SECONDS
"""Milliseconds for whatever a page is waited for to show."""


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    from playwright.sync_api import expect, sync_playwright  # Here alone: most tests go without.

    expect.set_options(timeout=PATIENCE)
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.fail("Chromium is needed: apt-get install chromium")
    with sync_playwright() as playwright:
        # Without --no-sandbox it does not start as root, as in a container.
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A page in a fresh profile."""
    context = browser.new_context(viewport={"width": 1600, "height": 2000})
    context.set_default_timeout(PATIENCE)  # Of this page and of those that it opens.
    page = context.new_page()
    yield page
    context.close()


@pytest.fixture(scope="module")
def furnished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a model, images, a prepared dataset, and what a run has kept; it is to be copied."""
    from tests.program.doors import furnish  # Here alone: most tests go without.

    directory = tmp_path_factory.mktemp("furnished")
    furnish(directory)
    return directory
