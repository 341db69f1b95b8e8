"""The dashboard's front page from the first day to three studies, and a study of arms, as a person sees them.

Needs Chromium (Debian's package `chromium`). `pytest -m slow tests/program/test_pictures.py --screenshots DIRECTORY`
also keeps pictures of all of it, and the reports as they are on a phone and printed.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, ViewportSize, expect

from tests.program.recorded import compare, copy_store, record, snapshot
from tests.program.screens import dashboard, report_screenshots, screenshot

pytestmark = pytest.mark.slow

DESK = ViewportSize(width=1280, height=800)
A4_WIDTH = 703
"""Pixels of 1/96 inch in the 186 mm between the margins of 12 mm."""
STUDIES = ("heads", "heads_matched_capacity", "train_at_many_sizes")
ARMS = ("gap_one_size", "gap_many_sizes")


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> list[Path]:
    """Pages of the reports on three studies of an `output_dir`, the newest last, one of arms, of three seeds."""
    directory = tmp_path_factory.mktemp("three_studies")
    copy_store(empty_store, directory)
    pages = []
    for age, study in zip((3, 2, 1), STUDIES, strict=True):
        runs = snapshot(study, seeds=3)
        record(directory, runs, study, time.time() - 86_400 * age, asked=len(runs))
        pages.append(compare(directory, runs, study))
    return pages


@pytest.fixture(scope="module")
def address(reports: list[Path]) -> Iterator[str]:
    with dashboard(reports[0].parents[2]) as (address, _):
        yield address


def test_on_the_first_day_the_front_page_says_what_to_type(
    page: Page, store: Path, request: pytest.FixtureRequest
) -> None:
    with dashboard(store) as (address, _):
        page.set_viewport_size(DESK)
        page.goto(address)
        expect(page.get_by_role("heading", name="There is no study yet")).to_be_in_viewport()
        expect(page.get_by_text("make heads", exact=True)).to_be_in_viewport()
        screenshot(page, request, f"{address}/", "front_page_empty")


def test_while_a_study_runs_the_front_page_says_how_far_it_is(
    page: Page, store: Path, request: pytest.FixtureRequest
) -> None:
    # Nine runs, three done in a minute each; the fourth is at work.
    record(store, snapshot("heads", seeds=2).iloc[:4], "now", time.time() - 200, asked=9, at_work=True)
    with dashboard(store) as (address, _):
        page.set_viewport_size(DESK)
        page.goto(address)
        expect(page.locator(".progress")).to_contain_text("Run 4 of 9, about ")
        expect(page.get_by_text("At work: ")).to_be_in_viewport()
        so_far = page.get_by_role("region", name="So far, heads")
        expect(so_far).to_be_in_viewport()
        screenshot(page, request, f"{address}/", "front_page_running")


def test_three_studies_stand_on_the_front_page_the_newest_first(
    page: Page, address: str, request: pytest.FixtureRequest
) -> None:
    page.set_viewport_size(DESK)
    page.goto(address)
    studies = page.locator("article h2")
    for index, study in enumerate(reversed(STUDIES)):
        expect(studies.nth(index)).to_contain_text(f"{study} on fashion_mnist")
    expect(page.locator(".answer")).to_have_count(3)
    expect(page.locator(".answer").first).to_be_in_viewport()
    screenshot(page, request, f"{address}/", "front_page_three_studies")


def test_the_arms_of_a_study_are_told_apart_everywhere(
    page: Page, address: str, reports: list[Path], request: pytest.FixtureRequest
) -> None:
    page.set_viewport_size(DESK)
    page.goto(address)
    arms = page.locator("article").first
    arms.get_by_text("6 runs").click()
    for arm in ARMS:
        expect(arms.get_by_role("link", name=f"{arm} seed 1", exact=True)).to_be_visible()
    # MLflow takes the view out of the address once it is open.
    charts, means = (
        arms.get_by_role("link", name=name).evaluate("link => link.href") for name in ("Charts", "Mean over seeds")
    )
    page.goto(charts)
    page.wait_for_selector(".js-plotly-plot")
    for arm in ARMS:
        expect(page.get_by_text(f"{arm} seed 1").first).to_be_in_viewport()
    screenshot(page, request, charts, "arms_view", ".js-plotly-plot")
    screenshot(page, request, means, "arms_mean_view", ".js-plotly-plot")

    report = reports[-1]
    page.set_viewport_size(DESK)
    page.goto(report.as_uri())
    for arm in ARMS:
        expect(page.locator(".answer")).to_contain_text(arm)
        expect(page.get_by_role("checkbox", name=arm)).to_be_visible()


@pytest.mark.parametrize("index", range(len(STUDIES)), ids=STUDIES)
def test_a_printed_report_is_cut_nowhere(
    page: Page, reports: list[Path], index: int, request: pytest.FixtureRequest
) -> None:
    page.emulate_media(media="print")
    page.set_viewport_size({"width": A4_WIDTH, "height": 1000})
    page.goto(reports[index].as_uri())
    edges = page.locator("table, svg").evaluate_all("all => all.map(each => each.getBoundingClientRect().right)")
    assert max(edges) <= A4_WIDTH
    report_screenshots(page, request, reports[index], f"{STUDIES[index]}_report")
