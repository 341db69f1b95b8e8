"""What people see: a study's printed link, opened in a real browser with a fresh profile.

Needs Chromium (Debian's package `chromium`). `pytest -m slow tests/program/test_browser.py --screenshots DIRECTORY`
also keeps the pictures that the documents show.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
from mlflow import MlflowClient
from mlflow.entities import Run
from playwright.sync_api import Page, expect

from pipeline.other_sizes.ways import WAYS
from tests.conftest import HANG_SECONDS
from tests.program.forked import run_forked
from tests.program.screens import dashboard, screenshot

pytestmark = pytest.mark.slow

SIZES = [4, 6, 7, 8, 10, 12, 14, 16]
HEADS = ["average_pool", "flatten_dense", "global_average_pool"]
CHARTS = """() => [...document.querySelectorAll('[data-testid="experiment-view-compare-runs-card"]')].map(card => {
    const plot = card.querySelector('.js-plotly-plot');
    return plot && {
        title: card.innerText.split('\\n')[0],
        text: card.innerText,
        x_axis: plot.layout.xaxis.title?.text ?? plot.layout.xaxis.title ?? null,
        traces: plot.data.map(trace => ({
            name: trace.name, bars: trace.type === 'bar', mode: trace.mode ?? null, colour: trace.marker?.color ?? null,
            x: [...trace.x ?? []].map(String), y: [...trace.y ?? []].map(String),
        })),
    };
}).filter(chart => chart)"""
"""What Plotly was given to draw, by chart."""
PLOTTED = """() => [...document.querySelectorAll('.js-plotly-plot')].flatMap(plot => plot.data.map(
    trace => ({x: [...trace.x ?? []].map(String), y: [...trace.y ?? []].map(Number)})))"""
"""All traces of a page."""


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory of a study on digits: three heads, two seeds, two epochs, and a single run beside it."""
    directory = tmp_path_factory.mktemp("browser")
    result = run_forked("pipeline.train", "study=heads", "seed=0,1", "training.epochs=2", cwd=directory)
    assert result.returncode == 0, result.stderr
    (directory / "stdout.txt").write_text(result.stdout)
    assert run_forked("pipeline.train", "training.epochs=1", "seed=7", cwd=directory).returncode == 0
    return directory


@pytest.fixture(scope="module")
def runs(study: Path) -> dict[str, Run]:
    """The study's runs by name."""
    mlflow.set_tracking_uri(f"sqlite:///{study / 'outputs' / 'mlflow.db'}")
    found = MlflowClient().search_runs(["1"], "tags.study = 'heads'")
    assert len(found) == 6
    return {run.info.run_name: run for run in found}


@pytest.fixture(scope="module")
def address(study: Path) -> Iterator[str]:
    """Where `python -m pipeline.dashboard` says that it is."""
    with dashboard(study / "outputs") as (address, printed):
        # The link that the study printed, but for the port that this server has.
        assert re.sub("^http://[^/]+", address, _printed_link(study)) in printed
        yield address


def _printed_link(study: Path) -> str:
    (link,) = re.findall(r"http://\S+", (study / "stdout.txt").read_text())
    return link


def _charts(page: Page, address: str, lines: dict[str, int]) -> dict[str, dict[str, Any]]:
    """Opens an address and waits, with nothing clicked, until all charts of a prepared view are drawn.

    MLflow asks for the runs' histories one after the other, so some of the charts have to have so many lines.
    """
    page.goto(address)
    deadline = time.monotonic() + HANG_SECONDS
    while time.monotonic() < deadline:
        charts = {chart["title"]: chart for chart in page.evaluate(CHARTS)}
        drawn = {title: len(_points(chart)) for title, chart in charts.items()}
        complete = all(drawn.get(title, 0) >= count for title, count in lines.items())
        if len(drawn) >= len(CHART_TITLES) and all(drawn.values()) and complete:
            return charts
        page.wait_for_timeout(200)
    pytest.fail(f"only {drawn} came up")


def _points(chart: dict[str, Any]) -> list[dict[str, Any]]:
    """What is drawn of each run or group; beside it Plotly has a pale copy of a line, and bands."""
    return [trace for trace in chart["traces"] if trace["mode"] in ("lines+markers", "markers") or trace["bars"]]


WAY_METRICS = {
    mode: [f"size/{name}/{mode}/accuracy" for name in sorted(way.name for way in WAYS)] for mode in ("resize", "canvas")
}
CHART_TITLES = [
    *("size/resize/accuracy", "size/canvas/accuracy", "size/seen_fraction"),
    *("test/accuracy", "params/total", "params/total vs. test/accuracy"),
    *(" vs ".join(metrics) for metrics in WAY_METRICS.values()),
    *("val/accuracy", "train/accuracy", "val/loss"),
]


def test_the_printed_link_opens_the_comparison(
    page: Page, study: Path, address: str, runs: dict[str, Run], request: pytest.FixtureRequest
) -> None:
    link = re.sub("^http://[^/]+", address, _printed_link(study))
    # Of each run, and with the ways as many again as a head has: 5 + 4 + 3, of two seeds.
    counts = dict.fromkeys(CHART_TITLES[:3], 6) | {" vs ".join(metrics): 24 for metrics in WAY_METRICS.values()}
    charts = _charts(page, link, counts)
    assert list(charts) == CHART_TITLES

    client = MlflowClient()
    for metric in CHART_TITLES[:3]:
        assert charts[metric]["x_axis"] == "size/px"
        lines = {trace["name"]: trace for trace in _points(charts[metric])}
        assert set(lines) == set(runs)  # The single run beside the study is not there.
        for name, line in lines.items():
            recorded = {m.step: m.value for m in client.get_metric_history(runs[name].info.run_id, metric)}
            assert [float(px) for px in line["x"]] == SIZES == sorted(recorded)
            assert [float(y) for y in line["y"]] == pytest.approx([recorded[px] for px in SIZES], nan_ok=True)
            assert line["colour"].lower() == runs[name].data.tags["mlflow.runColor"].lower()

    # 4 px make a 1×1 map and 14 px a 4×4 one, where training had 2×2: a gap, not a zero.
    gaps = {
        name: [px for px, y in zip(SIZES, line["y"], strict=True) if math.isnan(float(y))]
        for name, line in {trace["name"]: trace for trace in _points(charts["size/resize/accuracy"])}.items()
    }
    assert gaps["flatten_dense seed 0"] == [4, 10, 12, 14, 16]
    assert gaps["average_pool seed 1"] == [4, 14, 16]
    assert gaps["global_average_pool seed 0"] == []

    for metrics in WAY_METRICS.values():
        recorded_lines = [
            [m.value for m in sorted(client.get_metric_history(run.info.run_id, metric), key=lambda m: m.step)]
            for run in runs.values()
            for metric in metrics
            if metric in run.data.metrics
        ]
        drawn = [[float(y) for y in line["y"]] for line in _points(charts[" vs ".join(metrics)])]
        assert len(drawn) == len(recorded_lines) == 2 * (5 + 4 + 3)  # Two seeds of three heads with so many ways.
        assert sorted(map(str, drawn)) == sorted(map(str, recorded_lines))

    accuracies = sorted(run.data.metrics["test/accuracy"] for run in runs.values())
    (bars,) = charts["test/accuracy"]["traces"]
    assert sorted(float(x) for x in bars["x"]) == pytest.approx(accuracies)
    (points,) = charts["params/total vs. test/accuracy"]["traces"]
    assert sorted(float(y) for y in points["y"]) == pytest.approx(accuracies)
    assert {int(x) for x in points["x"]} == {65_568 + 650, 65_568 + 2_570}
    curves = charts["val/accuracy"]
    assert (curves["x_axis"], {tuple(trace["x"]) for trace in curves["traces"]}) == ("Step", {("1", "2")})
    screenshot(page, request, link, "heads_compared")


def test_from_the_printed_address_to_the_answer_without_a_click(
    page: Page, address: str, request: pytest.FixtureRequest
) -> None:
    page.set_viewport_size({"width": 1280, "height": 800})
    page.goto(address)
    page.wait_for_url(f"{address}/studies")
    answer = page.locator(".answer")
    expect(answer).to_contain_text("At 8 px,")
    expect(answer).to_be_in_viewport()
    expect(page.get_by_text("average_pool seed 1", exact=True)).to_be_hidden()
    page.get_by_text("6 runs").click()
    expect(page.get_by_role("link", name="average_pool seed 1", exact=True)).to_be_visible()
    expect(page.get_by_role("region", name="Newest single runs")).to_contain_text("global_average_pool seed 7")
    # It looks again by itself, and what was opened stays open; the test does not wait for the time to pass.
    page.set_viewport_size({"width": 1280, "height": 300})
    page.evaluate("window.scrollTo(0, 50)")
    page.evaluate(
        "main => { main.querySelector('.answer').textContent = 'old' }", page.locator("main").element_handle()
    )
    page.evaluate("refresh()")
    expect(answer).to_contain_text("At 8 px,")
    expect(page.get_by_role("link", name="average_pool seed 1", exact=True)).to_be_visible()
    assert page.evaluate("window.scrollY") == 50

    page.get_by_role("link", name="Report").click()
    expect(page.locator(".answer")).to_contain_text("At 8 px,")
    expect(page.locator("svg")).to_have_count(6)
    page.go_back()
    page.set_viewport_size({"width": 1280, "height": 800})  # Charts are drawn once they come into view.
    page.get_by_role("link", name="Charts").click()
    page.wait_for_selector(".js-plotly-plot")
    # The assistant stays a button in the corner; where it opens by itself, MLflow writes down that it is open.
    expect(page.get_by_placeholder("Ask a question")).to_have_count(0)
    assert page.evaluate("localStorage.getItem('mlflow.assistant.panelOpen_v1')") is None

    page.set_viewport_size({"width": 360, "height": 740})
    page.goto(f"{address}/studies")
    expect(page.locator(".answer")).to_be_in_viewport()
    assert page.evaluate("document.scrollingElement.scrollWidth") <= 360
    screenshot(page, request, f"{address}/", "front_page")


def test_a_second_view_averages_the_seeds(
    page: Page, address: str, runs: dict[str, Run], request: pytest.FixtureRequest
) -> None:
    link = f"{address}/#/experiments/1/runs?workflowType=machine_learning&compareRunsMode=CHART"
    link += "&viewStateShareKey=study-heads-mean"
    charts = _charts(page, link, {"size/resize/accuracy": 3, "size/canvas/accuracy": 3})  # Of each head.
    client = MlflowClient()
    for metric in ("size/resize/accuracy", "size/canvas/accuracy"):
        means = []
        for head in HEADS:
            of_seeds = [
                {m.step: m.value for m in client.get_metric_history(run.info.run_id, metric)}
                for run in runs.values()
                if run.data.tags["head"] == head
            ]
            means.append([sum(of_seed[px] for of_seed in of_seeds) / 2 for px in SIZES])  # NaN where refused.
            assert f"{head} ({metric})" in charts[metric]["text"]
        drawn = [[float(y) for y in line["y"]] for line in _points(charts[metric])]
        assert np.sort(np.array(drawn), axis=0) == pytest.approx(np.sort(np.array(means), axis=0), nan_ok=True)
    (bars,) = charts["test/accuracy"]["traces"]
    assert len(bars["x"]) == 3
    # Both views are listed for people who come another way.
    page.get_by_role("button", name="heads: mean over seeds").click()
    expect(page.get_by_role("menuitem").filter(has_text="heads: heads compared")).to_be_visible()
    expect(page.get_by_role("menuitem").filter(has_text="all runs")).to_be_visible()
    page.keyboard.press("Escape")
    screenshot(page, request, link, "mean_over_seeds")


def test_the_table_has_the_columns(page: Page, address: str) -> None:
    page.set_viewport_size({"width": 2600, "height": 1000})
    page.goto(f"{address}/#/experiments/1/runs?workflowType=machine_learning&viewStateShareKey=study-heads")
    columns = ["params.`head`", "params.`seed`", "metrics.`test/accuracy`", "metrics.`params/total`"]
    columns += ["metrics.`test/balanced_accuracy`", "metrics.`test/calibration_error`"]
    columns += [f"tags.`size.{px:03d}px`" for px in SIZES]
    for column in columns:
        expect(page.locator(f'[role=columnheader][col-id="{column}"]')).to_be_visible()
    row = page.get_by_role("row").filter(has_text="crops")
    expect(row.first).to_contain_text("average_pool")
    # The experiment's description: the question, and links that work from where they are.
    first_line = page.get_by_text("What should replace the Dense layers after a fully convolutional network?")
    expect(first_line.first).to_be_visible()
    with page.expect_popup() as popup:  # MLflow opens links of a description in a new tab.
        page.get_by_role("link", name="mean over seeds").first.click()
    popup.value.wait_for_url("**viewStateShareKey=study-heads-mean**")
    popup.value.wait_for_selector(".js-plotly-plot")


def test_a_run_page_has_its_conclusion_first(
    page: Page, address: str, runs: dict[str, Run], request: pytest.FixtureRequest
) -> None:
    run = runs["average_pool seed 1"]
    accuracy = run.data.metrics["test/accuracy"]
    link = f"{address}/#/experiments/1/runs/{run.info.run_id}?workflowType=machine_learning"
    page.goto(link)
    # 64 channels × 10 classes + 10, on a backbone of 65,568.
    conclusion = (
        f"66,218 parameters, {accuracy:.3f} test accuracy at 8 px; "
        "refuses 4 px, keeps its feature map at 6–7 px, crops 10–12 px, refuses 14–16 px."
    )
    expect(page.get_by_text(conclusion)).to_be_visible()
    page.get_by_text("Show more").first.click()
    pictures = ("size_behavior.png", "ignored.png", "confusion_matrix.png", "misclassified.png", "class_activation.png")
    for name in pictures:
        picture = page.locator(f'img[src*="{name}"]')
        expect(picture).to_be_visible()
        page.wait_for_function("picture => picture.naturalWidth > 100", arg=picture.element_handle())
    # In the table of verdicts and in that of the ways to other sizes.
    expect(page.get_by_role("cell", name="12×12", exact=True)).to_have_count(2)
    command = "python -m pipeline.train seed=1 head=average_pool study=heads training.epochs=2 hydra.mode=RUN"
    expect(page.get_by_text(command)).to_be_visible()
    (digest,) = {data.dataset.digest for data in run.inputs.dataset_inputs if data.dataset.name == "digits 1.0.0 train"}
    expect(page.get_by_role("button").filter(has_text=f"digits 1.0.0 train ({digest})")).to_be_visible()
    expect(page.get_by_role("link", name="model", exact=True).first).to_be_visible()
    screenshot(page, request, link, "run_page")

    # The learning curves have their place behind the next tab, as MLflow arranges them.
    page.set_viewport_size({"width": 1600, "height": 12000})  # Charts are drawn once they come into view.
    page.get_by_role("tab", name="Model metrics").click()
    history = MlflowClient().get_metric_history(run.info.run_id, "val/accuracy")
    curve = {"x": ["1", "2"], "y": [pytest.approx(metric.value) for metric in sorted(history, key=lambda m: m.step)]}
    deadline = time.monotonic() + HANG_SECONDS
    while not any(drawn["x"] == curve["x"] and drawn["y"] == curve["y"] for drawn in page.evaluate(PLOTTED)):
        assert time.monotonic() < deadline
        page.wait_for_timeout(200)


@pytest.mark.parametrize(("width", "height"), [(1280, 900), (390, 844)], ids=["desktop", "phone"])
def test_the_report_is_one_readable_file(page: Page, study: Path, width: int, height: int) -> None:
    """Opened from the disk, with no server: nothing else is asked for, and no line runs off the page."""
    (report,) = (study / "outputs" / "studies").glob("*/report.html")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.set_viewport_size({"width": width, "height": height})
    page.goto(report.as_uri())
    answer = page.locator(".answer")
    expect(answer).to_contain_text("At 8 px,")
    expect(answer).to_be_in_viewport()
    pictures = page.locator("svg")
    expect(pictures).to_have_count(6)  # Accuracy, sizes in two modes, differences, cost, ways to other sizes.
    for picture in pictures.all():
        box = picture.bounding_box()
        assert box is not None
        assert 300 < box["width"] <= width
    # Wide tables scroll in their own boxes.
    assert page.evaluate("document.scrollingElement.scrollWidth") <= width
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []


def test_a_report_shows_hides_sorts_and_filters_without_a_server(
    page: Page, study: Path, request: pytest.FixtureRequest
) -> None:
    (report,) = (study / "outputs" / "studies").glob("*/report.html")
    screenshot(page, request, report.as_uri(), "report")
    page.goto(report.as_uri())
    (told,) = page.locator("svg").first.locator("g.told title").filter(has_text="flatten_dense").all()
    assert re.fullmatch(r"flatten_dense: 0\.\d{4} \[0\.\d{4}, [01]\.\d{4}\]", told.text_content() or "")

    drawn = page.locator(".arm-0")
    everywhere = drawn.count()
    assert everywhere > 5
    page.get_by_role("checkbox", name="flatten_dense").uncheck()
    assert drawn.evaluate_all("all => all.filter(each => each.style.display !== 'none').length") == 0
    page.get_by_role("checkbox", name="flatten_dense").check()
    assert drawn.evaluate_all("all => all.filter(each => each.style.display !== 'none').length") == everywhere

    arms = page.locator("table").first
    parameters = arms.get_by_role("button", name="parameters")
    for first in ("66,218", "68,138"):  # 65,568 + 650 and + 2,570; ascending, then descending.
        parameters.click()
        expect(arms.locator("tbody tr").first).to_contain_text(first)

    sizes = page.get_by_role("group", name="every image size")
    rows = sizes.locator("tbody tr")
    everything = rows.count()
    page.locator("p:has(+ div[aria-label='every image size']) input").fill("16 px, on a canvas")
    assert rows.evaluate_all("all => all.filter(each => !each.hidden).length") == 1 < everything
