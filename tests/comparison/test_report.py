"""The report's words, tables and figures."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.patches import Rectangle

from pipeline.common.condition import TEST, Condition, Mode
from pipeline.comparison.analysis import Group, analyse
from pipeline.comparison.report.figures import cost_figure, difference_figure, size_figure
from pipeline.comparison.report.markdown import markdown_table
from pipeline.comparison.report.tables import arms_table, comparisons_table, pareto_front, sizes_table
from pipeline.comparison.report.text import conclusion, control_text
from tests.comparison.studies import STATISTICS, lines_of, page_of, study

RESIZED = Condition(Mode.RESIZE, 16)


@pytest.fixture(scope="module")
def group() -> Group:
    """Flatten + Dense at 95 %, both pooling heads at 90 %, five seeds."""
    (group,) = analyse(study(), STATISTICS)
    return group


def test_the_answer_comes_in_two_sentences(group: Group) -> None:
    accuracy, sizes = conclusion(group, STATISTICS).split(". ", 1)[0], conclusion(group, STATISTICS).rsplit(". ", 1)[-1]
    difference = next(found for found in group.comparisons if found.second == "average_pool").difference
    low, high = difference.interval(0.95)
    assert accuracy.startswith("At 8 px, flatten_dense is more accurate than average_pool")
    assert f"{100 * difference.mean:.2f} points, {100 * low:.2f} to {100 * high:.2f})" in conclusion(group, STATISTICS)
    assert sizes == (
        "Trained at 8 px, flatten_dense refuses every other size; average_pool refuses every other size; "
        "global_average_pool adapts to every other size."
    )


@pytest.mark.long
def test_what_is_not_known_is_said() -> None:
    (alone,) = analyse(study(seeds=1), STATISTICS)
    assert conclusion(alone, STATISTICS).startswith("At 8 px nothing can be said")
    assert comparisons_table(alone, STATISTICS, every_condition=True).rows == ()
    (failed,) = analyse(study(average=0.93), STATISTICS)
    assert conclusion(failed, STATISTICS).startswith(
        "The control failed: average_pool and global_average_pool are the same function at 8 px, and still differ by "
    )
    assert "FAILED; trust nothing here" in control_text(failed, STATISTICS)
    page = page_of(study(average=0.93))
    assert 'class="answer failed"' in page


def test_tables_hold_means_intervals_and_verdicts(group: Group) -> None:
    rows = {row[0]: row for row in arms_table(group, STATISTICS).rows}
    flatten = group.arm("flatten_dense")
    low, high = flatten.accuracy[TEST].interval(0.95)
    assert rows["flatten_dense"][1:6] == (
        "5",
        f"{flatten.accuracy[TEST].mean:.4f} [{low:.4f}, {high:.4f}]",
        "68,138 *",
        "2,570",
        "1.00",
    )
    verdicts = {row[:2]: row[5] for row in comparisons_table(group, STATISTICS, every_condition=False).rows}
    assert verdicts == {
        ("flatten_dense", "average_pool"): "flatten_dense better by more than 0.50 points",
        ("flatten_dense", "global_average_pool"): "flatten_dense better by more than 0.50 points",
        ("average_pool", "global_average_pool"): "equivalent within 0.50 points",
    }
    text = markdown_table(arms_table(group, STATISTICS)).splitlines()
    assert text[0].startswith("| arm | seeds | test accuracy | parameters |")
    assert text[1].startswith("| --- | ---: | ---: |")
    assert len({line.count("|") for line in text[:5]}) == 1


def test_every_size_says_what_each_arm_does(group: Group) -> None:
    table = sizes_table(group, STATISTICS)
    assert table.columns == ("images", "flatten_dense", "average_pool", "global_average_pool")
    found = group.arm("global_average_pool").accuracy[RESIZED]
    low, high = found.interval(0.95)
    assert table.rows == (
        ("16 px, resized", "refuses", "refuses", f"adapts {found.mean:.4f} [{low:.4f}, {high:.4f}]"),
        ("16 px, on a canvas", "refuses", "refuses", "adapts"),
    )


def test_a_mean_alone_does_not_push_an_equal_arm_off_the_pareto_front(group: Group) -> None:
    assert pareto_front(group) == {"flatten_dense", "average_pool", "global_average_pool"}


def test_figures_show_intervals_gaps_and_the_margin(group: Group) -> None:
    resized, canvas = size_figure(group, STATISTICS).axes
    lines = lines_of(resized)
    assert np.asarray(lines["global_average_pool"].get_xdata()).tolist() == [8, 16]
    assert lines["global_average_pool"].get_ydata() == pytest.approx(
        [group.arm("global_average_pool").accuracy[key].mean for key in (TEST, RESIZED)]
    )
    assert np.isnan(np.array(lines["flatten_dense"].get_ydata(), float)).tolist() == [False, True]
    assert (resized.get_xlabel(), resized.get_ylabel()) == ("image height / px", "test accuracy")
    assert canvas.get_title().startswith("image at its scale")
    (axis,) = difference_figure(group, STATISTICS).axes
    band = axis.patches[0]
    assert isinstance(band, Rectangle)
    assert (band.get_x(), band.get_x() + band.get_width()) == pytest.approx((-0.5, 0.5))
    assert [label.get_text() for label in axis.get_yticklabels()][-1] == "flatten_dense − average_pool"
    (axis,) = cost_figure(group, STATISTICS).axes
    assert axis.get_xlabel() == "parameters"


@pytest.mark.long
def test_the_page_needs_no_other_file_and_escapes_what_it_shows() -> None:
    page = page_of(study().assign(**{"params.question": "Is a < b?"}), lambda run: f"http://host/{run}")
    assert "<h1>Is a &lt; b?</h1>" in page
    assert page.count("data:image/svg+xml;base64,") == 3
    assert 'src="http' not in page
    assert "<link" not in page
    assert "<script" not in page
    assert page.count('<a href="http://host/') == 15  # Three arms, five seeds.
    assert "Holm 1979" in page


def test_answers_about_natural_sizes_say_so() -> None:
    (natural,) = analyse(study().assign(**{"params.image_size": "natural, about 8×8"}), STATISTICS)
    said = conclusion(natural, STATISTICS)
    assert said.startswith("At natural sizes, flatten_dense is more accurate than")
    assert "Trained at natural sizes, flatten_dense refuses every other size; " in said
    assert {row[2] for row in comparisons_table(natural, STATISTICS, every_condition=False).rows} == {"natural sizes"}
    assert [row[0] for row in sizes_table(natural, STATISTICS).rows] == [
        *("8 px, resized", "16 px, resized"),
        *("8 px, on a canvas", "16 px, on a canvas"),
    ]
    assert len(size_figure(natural, STATISTICS).axes) == 2
