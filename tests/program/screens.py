"""What a person sees of the dashboard and of a report, in a browser with a fresh profile, and pictures of it."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import Page

from tests.conftest import HANG_SECONDS, read_until, start_program
from tests.program.servers import free_port


@contextmanager
def dashboard(output_path: Path) -> Iterator[tuple[str, str]]:
    """`python -m pipeline.dashboard` of an `output_dir`: where it says that it is, and all that it says."""
    port = free_port()
    process = start_program("pipeline.dashboard", f"port={port}", f"output_dir={output_path}", cwd=output_path)
    try:
        printed = read_until(process, "Ctrl-C stops it")
        yield f"http://127.0.0.1:{port}", printed
    finally:
        process.terminate()
    assert process.wait(timeout=HANG_SECONDS) == 143


def screenshot(page: Page, request: pytest.FixtureRequest, address: str, name: str, shows: str = "body") -> None:
    """Keeps what a person sees without a click, in a fresh profile, if pytest was called with --screenshots.

    Before that, it waits for a selector of what the page `shows`.
    """
    directory = request.config.getoption("screenshots")
    if directory is None:
        return
    page.set_viewport_size({"width": 1280, "height": 800})
    page.goto("about:blank")
    page.goto(address)
    page.wait_for_selector(shows)
    page.wait_for_timeout(8000)  # MLflow polls: its network is never idle.
    _keep(page.screenshot(), Path(directory) / f"{name}.webp", width=1000)


def report_screenshots(page: Page, request: pytest.FixtureRequest, report: Path, name: str) -> None:
    """Keeps a report as it is on a desk, on a phone in its whole length, and printed, likewise."""
    directory = request.config.getoption("screenshots")
    if directory is None:
        return
    page.emulate_media(media="screen")
    screenshot(page, request, report.as_uri(), name)
    page.emulate_media(media="print")
    page.pdf(path=Path(directory) / f"{name}.pdf", format="A4", prefer_css_page_size=True)
    page.emulate_media(media="screen")
    page.set_viewport_size({"width": 390, "height": 844})
    _keep(page.screenshot(full_page=True), Path(directory) / f"{name}_phone.webp", width=390)


def _keep(picture: bytes, path: Path, width: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.open(io.BytesIO(picture))
    image.resize((width, round(width * image.height / image.width)), Image.Resampling.LANCZOS).save(path, quality=80)
