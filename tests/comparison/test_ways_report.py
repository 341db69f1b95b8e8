"""What is said about the ways to run trained models at other sizes, from runs whose answers are known."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from pipeline.common.condition import AS_IS, TEST, Condition, Mode
from pipeline.comparison.analysis import Group, analyse
from pipeline.comparison.report.answer import ways_answer
from pipeline.comparison.report.figures import figures
from pipeline.comparison.report.markdown import markdown_page
from pipeline.comparison.report.report import make_report
from pipeline.comparison.report.ways import best_ways_table, ways_figure, ways_table, ways_tables
from pipeline.other_sizes.ways import ALL_WAYS
from tests.comparison.studies import ASKS, STATISTICS, lines_of, page_of, right_answers, run_row

STYLES = {way.name: way for way in ALL_WAYS}


@pytest.fixture(scope="module")
def runs() -> pd.DataFrame:
    """At 16 px, Flatten + Dense refuses as it is; resizing the input gives 80 %, resizing the map 60 %."""
    rows = []
    for seed in range(4):
        right = {
            "test": right_answers(0.95, 3 * seed),
            "resize_016px.resize_input": right_answers(0.8, seed),
            "canvas_016px.resize_input": right_answers(0.3, seed),
            "resize_016px.resize_map": right_answers(0.6, seed + 50),
        }
        rows.append(run_row("flatten_dense", seed, right))
        right = {"test": right_answers(0.9, 3 * seed + 2), "resize_016px": right_answers(0.5, seed)}
        rows.append(run_row("global_average_pool", seed, right))
    return pd.DataFrame(rows)


@pytest.fixture(scope="module")
def group(runs: pd.DataFrame) -> Group:
    (found,) = analyse(runs, STATISTICS, ASKS)
    return found


def test_arms_know_their_ways_and_only_models_as_they_are_are_compared(group: Group) -> None:
    assert group.arm("flatten_dense").ways == ("resize_input", "resize_map")
    assert group.arm("global_average_pool").ways == ()
    assert {found.condition for found in group.comparisons} == {TEST}  # 16 px has one taker as it is.


def test_the_best_way_is_named_with_its_distance_to_the_next(group: Group) -> None:
    resized, canvas, globally = group.choices
    first, second = (
        np.array([right_answers(share, seed + shift) for seed in range(4)], float)
        for share, shift in ((0.8, 0), (0.6, 50))
    )
    assert (resized.arm, resized.mode, resized.heights) == ("flatten_dense", Mode.RESIZE, (16,))
    assert (resized.best, resized.next_best) == ("resize_input", "resize_map")
    assert resized.accuracy.mean == pytest.approx(first.mean())
    assert resized.difference is not None
    assert resized.difference.mean == pytest.approx((first - second).mean())
    low, high = resized.difference.interval(0.95)
    assert 0.15 < low < (first - second).mean() < high < 0.25
    assert resized.rivals == ()
    assert (canvas.best, canvas.next_best, canvas.difference, canvas.rivals) == ("resize_input", None, None, ())
    assert (globally.arm, globally.best, globally.next_best) == ("global_average_pool", AS_IS, None)


def test_the_answer_names_the_best_way(group: Group) -> None:
    resized, canvas, globally = group.choices
    assert resized.difference is not None
    points = f"{100 * resized.difference.mean:.2f}"
    assert ways_answer(group) == (
        "The best way to run each trained model, by mean accuracy. Images of 16 px, resized: flatten_dense "
        f"resize_input ({resized.accuracy.mean:.2f}, {points} points ahead of resize_map); global_average_pool as it "
        f"is ({globally.accuracy.mean:.2f}, the only one). Images of 16 px, on a canvas: flatten_dense resize_input "
        f"({canvas.accuracy.mean:.2f}, the only one)."
    )


@pytest.mark.long
def test_tables_name_every_way_and_mark_refusals(group: Group, runs: pd.DataFrame) -> None:
    table = ways_table(group, STATISTICS, Mode.RESIZE)
    assert table.columns == ("arm", "way", ">16 px")
    cells = {row[:2]: row[2] for row in table.rows}
    assert cells["flatten_dense", "as it is"] == "-"
    found = group.arm("flatten_dense").accuracy[Condition(Mode.RESIZE, 16, "resize_input")]
    low, high = found.interval(0.95)
    assert cells["flatten_dense", "resize_input"] == f"{found.mean:.3f} ± {(high - low) / 2:.3f}"
    best = best_ways_table(group, STATISTICS)
    assert [row[:3] for row in best.rows] == [
        ("flatten_dense", "16 px, resized", "resize_input"),
        ("flatten_dense", "16 px, on a canvas", "resize_input"),
        ("global_average_pool", "16 px, resized", "as it is"),
    ]
    page = markdown_page(make_report(runs, STATISTICS, ALL_WAYS, ASKS))
    assert "| flatten_dense | 16 px, resized | resize_input |" in page
    assert "resize_input: images are resized" in page_of(runs)


@pytest.mark.long
def test_the_figure_has_a_column_an_arm_and_a_line_a_way(group: Group) -> None:
    axes = ways_figure(group, STATISTICS, STYLES).axes
    assert [axis.get_title() for axis in axes[:2]] == ["flatten_dense", "global_average_pool"]
    lines = lines_of(axes[0])
    assert list(lines) == ["as it is", "resize_input", "resize_map"]
    accuracy = group.arm("flatten_dense").accuracy
    assert np.asarray(lines["resize_map"].get_xdata()).tolist() == [8, 16]
    assert lines["resize_map"].get_ydata() == pytest.approx(
        [accuracy[TEST].mean, accuracy[Condition(Mode.RESIZE, 16, "resize_map")].mean]
    )
    assert lines["as it is"].get_ydata() == pytest.approx([accuracy[TEST].mean, math.nan], nan_ok=True)
    assert "ways" in figures(group, STATISTICS, STYLES)


def test_a_way_that_answers_otherwise_at_the_training_size_has_a_point_of_its_own_there() -> None:
    """The trained images are of 8 px. `resize_input` answers there as the model does; `refit_dense_all` does not."""
    rows = []
    for seed in range(2):
        as_is, other = right_answers(0.9, seed), right_answers(0.7, seed)
        right = {
            "test": as_is,
            "resize_008px": as_is,
            "resize_016px": other,
            "resize_008px.resize_input": as_is,
            "resize_016px.resize_input": as_is,
            "resize_008px.refit_dense_all": other,
            "resize_016px.refit_dense_all": as_is,
        }
        rows.append(run_row("global_average_pool", seed, right))
    (group,) = analyse(pd.DataFrame(rows), STATISTICS, ASKS)
    lines = lines_of(ways_figure(group, STATISTICS, STYLES).axes[0])
    first, second = (np.mean([right_answers(share, seed) for seed in range(2)]) for share in (0.9, 0.7))
    assert lines["resize_input"].get_ydata() == pytest.approx([first, first])
    assert lines["refit_dense_all"].get_ydata() == pytest.approx([second, first])


def test_studies_without_ways_say_nothing_about_them() -> None:
    rows = [
        run_row(head, seed, {"test": right_answers(0.9, seed)})
        for seed in range(2)
        for head in ("flatten_dense", "other")
    ]
    (group,) = analyse(pd.DataFrame(rows), STATISTICS, ASKS)
    assert ways_tables(group, STATISTICS) == []
    assert "ways" not in figures(group, STATISTICS, STYLES)
