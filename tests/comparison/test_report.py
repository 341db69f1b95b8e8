"""The report's words, tables and figures."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from matplotlib.patches import Rectangle

from pipeline.common.condition import TEST, Condition, Mode
from pipeline.common.names import Param
from pipeline.comparison.analysis import Group, analyse
from pipeline.comparison.decisions import Outcome, claim
from pipeline.comparison.report.answer import control_text, failed_controls, sizes_sentence, training_size_answer
from pipeline.comparison.report.figures import cost_figure, difference_figure, size_figure
from pipeline.comparison.report.markdown import markdown_page, markdown_table
from pipeline.comparison.report.report import make_report
from pipeline.comparison.report.tables import arms_table, comparisons_table, pareto_front, sizes_table
from pipeline.comparison.settings import About, Asks
from pipeline.other_sizes.ways import WAYS
from tests.comparison.studies import ASKS, STATISTICS, lines_of, page_of, study

RESIZED = Condition(Mode.RESIZE, 16)


@pytest.fixture(scope="module")
def group() -> Group:
    """Flatten + Dense at 95 %, both pooling heads at 90 %, five seeds."""
    (group,) = analyse(study(), STATISTICS, ASKS)
    return group


def test_the_answer_comes_in_two_sentences(group: Group) -> None:
    said = training_size_answer(group, ASKS, STATISTICS)
    difference = next(found for found in group.comparisons if found.second == "average_pool").difference
    low, high = difference.interval(0.95)
    told = f"{100 * difference.mean:.2f} points, {100 * low:.2f} to {100 * high:.2f}"
    assert said.startswith(
        f"At 8 px, flatten_dense is more accurate than average_pool ({told}) and global_average_pool"
    )
    # "adapts" does not stand without the accuracy that it comes with.
    resized, native = (group.arm("global_average_pool").accuracy[under].mean for under in (RESIZED, TEST))
    assert said.endswith(
        " Other sizes: flatten_dense refuses every other size; average_pool refuses every other size; "
        f"global_average_pool adapts to every other size (accuracy {resized:.2f} resized, instead of {native:.2f})."
    )


def test_equal_means_are_a_tie() -> None:
    runs = study()
    flat, pool = runs["tags.head"] == "flatten_dense", runs["tags.head"] == "average_pool"
    runs.loc[pool, "answers.test"] = runs.loc[flat, "answers.test"].to_numpy()
    (tied,) = analyse(runs, STATISTICS, ASKS)
    assert training_size_answer(tied, ASKS, STATISTICS).startswith(
        "At 8 px, flatten_dense and average_pool have the same mean accuracy, the highest: they are equivalent."
    )


def test_two_seeds_give_no_verdict_and_say_so() -> None:
    (few,) = analyse(study(seeds=2), STATISTICS, ASKS)
    assert "; from 2 seeds there is no verdict, it takes 3." in training_size_answer(few, ASKS, STATISTICS)
    assert {found.decision.outcome for found in few.comparisons} == {Outcome.UNDECIDED}


def test_primary_comparisons_are_answered_first_and_alone() -> None:
    asks = Asks(about=About.training_size, primary=[["average_pool", "global_average_pool"]])
    (only,) = analyse(study(), STATISTICS, asks)
    assert training_size_answer(only, asks, STATISTICS).startswith(
        "At 8 px, average_pool is as accurate as global_average_pool to within 0.50 points ("
    )
    # It is the only one of its family, so nothing is corrected.
    (found,) = [each for each in only.comparisons if asks.is_primary(each.first, each.second)]
    assert found.decision.p_value == claim(found.difference, STATISTICS.margin)[1]


def test_an_arm_trained_at_several_sizes_is_not_said_to_be_trained_at_one() -> None:
    runs = study()
    runs["params.training.sizes"] = np.where(runs["tags.head"] == "global_average_pool", "[6, 8, 12]", "None")
    (several,) = analyse(runs, STATISTICS, ASKS)
    assert "global_average_pool (trained at 6–12 px) adapts to every other size" in sizes_sentence(several)


def test_times_are_told_where_they_tell_arms_apart() -> None:
    runs = study()
    ms = "metrics.cost/ms_per_image"
    runs[ms] = np.where(runs["tags.head"] == "flatten_dense", 2.0, 1.0)
    runs.loc[0, ms] = 2.4
    (apart,) = analyse(runs, STATISTICS, ASKS)
    assert "ms" in [heading for heading, _ in arms_table(apart, STATISTICS).headings]
    runs.loc[0, ms] = 3.0  # One arm's runs lie as far apart as the arms.
    (alike,) = analyse(runs, STATISTICS, ASKS)
    assert "ms" not in [heading for heading, _ in arms_table(alike, STATISTICS).headings]


@pytest.mark.long
def test_what_is_not_known_is_said() -> None:
    (alone,) = analyse(study(seeds=1), STATISTICS, ASKS)
    assert training_size_answer(alone, ASKS, STATISTICS).startswith("At 8 px nothing can be said")
    assert comparisons_table(alone, STATISTICS, every_condition=True).rows == ()
    (failed,) = analyse(study(average=0.93), STATISTICS, ASKS)
    (sentence,) = failed_controls([failed])
    assert sentence.startswith(
        "The control failed: average_pool and global_average_pool are the same function at 8 px, and still differ by "
    )
    assert "FAILED; trust nothing here" in control_text(failed.controls[0], "8 px", STATISTICS)
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
    assert page.count("<svg ") == 5  # Accuracy, sizes in two modes, differences, cost.
    assert 'src="http' not in page
    assert "<link" not in page
    assert page.count("<script") == 1  # The page's own, which sorts, filters, and shows arms.
    assert page.count('<a href="http://host/') == 15  # Three arms, five seeds.
    assert "Holm 1979" in page


def test_answers_about_natural_sizes_say_so() -> None:
    (natural,) = analyse(study().assign(**{"params.image_size": "natural, about 8×8"}), STATISTICS, ASKS)
    said = training_size_answer(natural, ASKS, STATISTICS)
    assert said.startswith("At natural sizes, flatten_dense is more accurate than")
    assert "Other sizes: flatten_dense refuses every other size; " in said
    assert {row[2] for row in comparisons_table(natural, STATISTICS, every_condition=False).rows} == {"natural sizes"}
    assert [row[0] for row in sizes_table(natural, STATISTICS).rows] == [
        *("8 px, resized", "16 px, resized"),
        *("8 px, on a canvas", "16 px, on a canvas"),
    ]
    assert len(size_figure(natural, STATISTICS).axes) == 2


def test_a_field_is_told_where_all_runs_recorded_it_and_parts_no_arms() -> None:
    fields = {Param.RECEPTIVE_FIELD.column: "13×13", Param.TOTAL_STRIDE.column: "4×4"}
    new = study().assign(**fields)
    for older, told in ((0, "small_fcn (whose cells see 13×13 px)"), (3, "small_fcn"), (15, "small_fcn")):
        runs = new.copy()
        runs.loc[runs.index[:older], list(fields)] = None  # As runs of before have it.
        report = make_report(runs, STATISTICS, WAYS, ASKS)
        assert report.limits.startswith(f"This is about digits and {told}, on 2,000 test images;")
        ((*arms,),) = ([arm.name for arm in section.group.arms] for section in report.sections)
        assert arms == ["flatten_dense", "average_pool", "global_average_pool"]
    whole = new.assign(**{Param.RECEPTIVE_FIELD.column: "whole image"})
    assert "small_fcn (whose cells see the whole image)" in make_report(whole, STATISTICS, WAYS, ASKS).limits
    other = new.assign(**{Param.RECEPTIVE_FIELD.column: "23×23", Param.IMAGE_SIZE.column: "16×16"})
    both = pd.concat([new, other]).assign(**{Param.TRAIN_EXAMPLES.column: "1293"})
    assert make_report(both, STATISTICS, WAYS, ASKS).limits.startswith(
        "This is about digits and small_fcn (whose cells see 13×13 px and 23×23 px), on 1,293 training and 2,000 test "
        "images;"
    )


def test_a_recipe_beyond_the_default_is_told_and_one_that_differs_too() -> None:
    shared = {"epochs": "5", "optimizer": "adam", "learning_rate": "0.003"}
    off = {"label_smoothing": "0.0", "patience": "None", "class_weights": "none", "augmentation.flip": "False"}
    off |= {"augmentation.operations": "0", "augmentation.magnitude": "9.0"}
    plain = study().assign(**{f"params.training.{name}": value for name, value in {**shared, **off}.items()})

    def limits(runs: pd.DataFrame) -> str:
        return make_report(runs, STATISTICS, WAYS, ASKS).limits

    assert "trained alike, for 5 epochs with adam and a learning rate of 0.003; none was tuned" in limits(plain)
    strong = plain.assign(**{"params.training.label_smoothing": "0.1", "params.training.augmentation.flip": "True"})
    assert "with adam, a learning rate of 0.003, label_smoothing=0.1 and augmentation.flip=True; none" in limits(strong)
    flips = np.where(plain["tags.head"] == "flatten_dense", "True", "False")
    assert "The arms' recipes differ" in limits(plain.assign(**{"params.training.augmentation.flip": flips}))
    older = plain.copy()
    strong = plain.assign(**{"params.training.augmentation.operations": "2"})
    assert "0.003, augmentation.operations=2 and augmentation.magnitude=9.0; none" in limits(strong)
    older.loc[older.index[:3], "params.training.label_smoothing"] = None  # As runs of before have it.
    assert "trained alike" in limits(older)
    schedules = np.where(plain["tags.head"] == "flatten_dense", "uniform", "progressive")
    assert "The arms' recipes differ" in limits(plain.assign(**{"params.training.size_schedule": schedules}))
    sizes = np.where(plain["tags.head"] == "flatten_dense", "None", "[6, 8]")
    several = limits(plain.assign(**{"params.training.sizes": sizes}))
    assert "trained alike but for the sizes of their training images, for 5 epochs" in several


@pytest.mark.long
def test_a_study_that_probed_no_other_size_says_so_once() -> None:
    runs = study().drop(columns=["tags.size.016px", "answers.resize_016px"])
    report = make_report(runs, STATISTICS, WAYS, ASKS)
    assert report.answer.endswith(" No other size was probed.")
    assert "| images | flatten_dense |" not in markdown_page(report)  # No table of nothing.
    assert "every image size" not in page_of(runs)
