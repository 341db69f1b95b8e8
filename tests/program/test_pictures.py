"""The dashboard's front page from the first day to three studies, and a study of arms, as a person sees them.

Needs Chromium (Debian's package `chromium`). `pytest -m slow tests/program/test_pictures.py --screenshots DIRECTORY`
also keeps pictures of all of it, with reports on a phone and printed.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.conftest import HANG_SECONDS, read_until, run_program, standing_still, start_program
from tests.program.screens import dashboard, report_screenshots, screenshot

pytestmark = pytest.mark.slow

DESK = {"width": 1280, "height": 800}
A4_WIDTH = 703
"""Pixels of 1/96 inch in the 186 mm between the margins of 12 mm."""
ARMS = ("gap_one_size", "gap_many_sizes")


def _train(directory: Path, *arguments: str) -> None:
    result = run_program("pipeline.train", "training.epochs=1", "size_probe.ways=[]", *arguments, cwd=directory)
    assert result.returncode == 0, result.stderr


def _reports(directory: Path) -> list[Path]:
    """The oldest first: their folders are named by the time."""
    return sorted((directory / "outputs" / "studies").glob("*/report.html"))


@pytest.fixture(scope="module")
def three_studies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory of three studies on digits, the one of arms the newest, two seeds and an epoch each."""
    directory = tmp_path_factory.mktemp("three")
    _train(directory, "study=heads", "seed=0,1")
    _train(directory, "study=heads_matched_capacity", "arm=flatten,gap_matched", "seed=0,1")
    _train(directory, "study=train_at_many_sizes", "training.sizes=[6,8,12]", "seed=0,1")
    return directory


@pytest.fixture(scope="module")
def address(three_studies: Path) -> Iterator[str]:
    with dashboard(three_studies) as (address, _):
        yield address


def test_on_the_first_day_the_front_page_says_what_to_type(
    page: Page, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    with dashboard(tmp_path) as (address, _):
        page.set_viewport_size(DESK)
        page.goto(address)
        expect(page.get_by_role("heading", name="There is no study yet")).to_be_in_viewport()
        expect(page.get_by_text("make heads", exact=True)).to_be_in_viewport()
        screenshot(page, request, f"{address}/", "front_page_empty")


def test_while_a_study_runs_the_front_page_says_how_far_it_is(
    page: Page, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    process = start_program(
        "pipeline.train", "study=heads", "seed=0,1", "training.epochs=2", "size_probe.ways=[]", cwd=tmp_path
    )
    try:
        read_until(process, "seed 1")  # Three heads with seed 0 are done.
        read_until(process, "epoch 1/2")
        with standing_still(process, tmp_path / "outputs" / "mlflow.db"), dashboard(tmp_path) as (address, _):
            page.set_viewport_size(DESK)
            page.goto(address)
            expect(page.locator(".progress")).to_contain_text("Run 4 of 6, ")
            expect(page.get_by_text("At work: flatten_dense seed 1")).to_be_in_viewport()
            so_far = page.get_by_role("region", name="So far, heads")
            expect(so_far.get_by_role("row")).to_have_count(1 + 3)
            expect(so_far).to_be_in_viewport()
            screenshot(page, request, f"{address}/", "front_page_running")
    finally:
        process.terminate()
    process.communicate(timeout=HANG_SECONDS)


def test_three_studies_stand_on_the_front_page_the_newest_first(
    page: Page, address: str, request: pytest.FixtureRequest
) -> None:
    page.set_viewport_size(DESK)
    page.goto(address)
    studies = page.locator("article h2")
    expect(studies.nth(0)).to_contain_text("train_at_many_sizes")
    expect(studies.nth(1)).to_contain_text("heads_matched_capacity")
    expect(studies.nth(2)).to_contain_text("heads")
    expect(page.locator(".answer")).to_have_count(3)
    expect(page.locator(".answer").first).to_be_in_viewport()
    screenshot(page, request, f"{address}/", "front_page_three_studies")


def test_the_arms_of_a_study_are_told_apart_everywhere(
    page: Page, address: str, three_studies: Path, request: pytest.FixtureRequest
) -> None:
    page.set_viewport_size(DESK)
    page.goto(address)
    arms = page.locator("article").first
    arms.get_by_text("4 runs").click()
    for arm in ARMS:
        expect(arms.get_by_role("link", name=f"{arm} seed 1", exact=True)).to_be_visible()
    arms.get_by_role("link", name="Charts").click()
    page.wait_for_selector(".js-plotly-plot")
    for arm in ARMS:
        expect(page.get_by_text(f"{arm} seed 1").first).to_be_in_viewport()
    screenshot(page, request, page.url, "arms_view")
    page.goto(f"{address}/studies")
    page.locator("article").first.get_by_role("link", name="Mean over seeds").click()
    page.wait_for_selector(".js-plotly-plot")
    screenshot(page, request, page.url, "arms_mean_view")

    report = _reports(three_studies)[-1]
    page.set_viewport_size(DESK)
    page.goto(report.as_uri())
    for arm in ARMS:
        expect(page.locator(".answer")).to_contain_text(arm)
        expect(page.get_by_role("checkbox", name=arm)).to_be_visible()
    report_screenshots(page, request, report, "arms_report")


def test_a_printed_report_is_cut_nowhere(page: Page, three_studies: Path, request: pytest.FixtureRequest) -> None:
    for index, report in enumerate(_reports(three_studies)):
        page.emulate_media(media="print")
        page.set_viewport_size({"width": A4_WIDTH, "height": 1000})
        page.goto(report.as_uri())
        widths = page.locator("table, svg").evaluate_all("all => all.map(each => each.getBoundingClientRect().right)")
        assert max(widths) <= A4_WIDTH
        page.emulate_media(media="screen")
        report_screenshots(page, request, report, f"report_{index}")
