"""Differences of differences, from runs whose answers are known."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from pipeline.comparison.analysis import analyse
from pipeline.comparison.contrasts import Contrast, contrasts
from pipeline.comparison.decisions import Outcome
from pipeline.comparison.levels import level_number
from pipeline.comparison.report.answer import answer, contrast_text
from pipeline.comparison.report.tables import contrasts_table
from pipeline.comparison.settings import About, Asks, Statistics
from tests.comparison.studies import STATISTICS, right_answers, run_row

EPOCHS = "training.epochs"
INTERACTION = Asks(about=About.interaction, over=EPOCHS)
TREND = Asks(about=About.trend, over=EPOCHS)


def _runs(shares: dict[str, dict[str, float]], **columns: object) -> pd.DataFrame:
    """Runs of each head with each number of epochs, which get such a share right."""
    rows = []
    for epochs, of_heads in shares.items():
        for at, (head, share) in enumerate(of_heads.items()):
            for seed in range(5):
                right = {"test": right_answers(share, 10 * seed + at)}
                row = run_row(head, seed, right, **{f"params.{EPOCHS}": epochs}, **columns)
                # What a seed draws beside the split may depend on the setting.
                rows.append({**row, "run_id": f"{head}{epochs}{seed}", "tags.pairing.batches": f"{epochs} {seed}"})
    return pd.DataFrame(rows)


def _found(runs: pd.DataFrame, asks: Asks) -> list[Contrast]:
    result = contrasts(runs, STATISTICS, asks)
    assert result is not None
    return list(result.found)


GROWING = {"5": {"flat": 0.92, "pool": 0.90}, "20": {"flat": 0.96, "pool": 0.90}}


def test_a_lead_that_grows_is_told_with_its_difference_of_differences() -> None:
    runs = _runs(GROWING)
    (found,) = _found(runs, INTERACTION)
    mean = {
        (epochs, head): np.mean([right_answers(share, 10 * seed + at).mean() for seed in range(5)])
        for epochs, of_heads in GROWING.items()
        for at, (head, share) in enumerate(of_heads.items())
    }
    leads = [mean[epochs, "flat"] - mean[epochs, "pool"] for epochs in ("5", "20")]
    assert [lead.mean for lead in found.leads] == pytest.approx(leads)
    assert found.change.mean == pytest.approx(leads[1] - leads[0])  # About 6 − 2 points.
    assert found.decision.outcome is Outcome.A_BETTER
    said = contrast_text(found, INTERACTION, STATISTICS)
    assert said.startswith(
        f"The lead of flat over pool is {100 * leads[0]:.2f} points at 5 and {100 * leads[1]:.2f} points at 20: "
        f"it grows by {100 * found.change.mean:.2f} points, "
    )
    whole = contrasts(runs, STATISTICS, INTERACTION)
    assert answer([], whole, INTERACTION, STATISTICS).startswith(f"Yes, it depends on {EPOCHS}. The lead of flat")
    assert whole is not None
    (row,) = contrasts_table(whole, STATISTICS).rows
    assert (row[1], row[4]) == ("flat − pool", "grows by more than 0.50 points")


def test_the_arm_behind_is_not_said_to_lead() -> None:
    (found,) = _found(_runs({"5": {"a": 0.90, "b": 0.92}, "20": {"a": 0.90, "b": 0.96}}), INTERACTION)
    assert contrast_text(found, INTERACTION, STATISTICS).startswith("The lead of b over a is ")
    assert ": it grows by " in contrast_text(found, INTERACTION, STATISTICS)
    assert found.decision.outcome is Outcome.B_BETTER  # Of A − B.


def test_a_lead_that_stays_is_told_so() -> None:
    coarse = Statistics(margin=0.02)
    whole = contrasts(
        _runs({"5": {"flat": 0.94, "pool": 0.90}, "20": {"flat": 0.95, "pool": 0.91}}), coarse, INTERACTION
    )
    assert whole is not None
    assert whole.found[0].decision.outcome is Outcome.EQUIVALENT
    said = answer([], whole, INTERACTION, coarse)
    assert said.startswith(f"No: to within 2.00 points it does not depend on {EPOCHS}. The lead of flat over pool is ")


def test_a_trend_is_the_slope_for_each_doubling() -> None:
    shares = {"5": {"flat": 0.91, "pool": 0.9}, "10": {"flat": 0.93, "pool": 0.9}, "20": {"flat": 0.95, "pool": 0.9}}
    (found,) = _found(_runs(shares), TREND)
    leads = [lead.mean for lead in found.leads]
    # The least squares line through (log2 5, ·), (log2 10, ·), (log2 20, ·): half of the last less the first.
    assert found.change.mean == pytest.approx((leads[2] - leads[0]) / 2)
    assert found.change.unseen_images == pytest.approx(2 * (0.5**2 + 0.5**2))
    assert "for each doubling" in contrast_text(found, TREND, STATISTICS)
    named = contrasts(_runs({"few": GROWING["5"], "many": GROWING["20"]}), STATISTICS, TREND)
    assert named is not None
    assert named.left_out == (f"digits: {EPOCHS} is no number above 0, which a trend needs",)


def test_one_arm_changes_in_accuracy() -> None:
    (found,) = _found(_runs({"5": {"flat": 0.90}, "20": {"flat": 0.95}}), INTERACTION)
    assert found.second is None
    assert contrast_text(found, INTERACTION, STATISTICS).startswith("The accuracy of flat is 0.8")


def test_arms_of_one_level_alone_are_known_by_their_heads() -> None:
    runs = _runs(GROWING)
    runs["params.arm"] = runs["tags.head"] + "_" + runs[f"params.{EPOCHS}"]
    (found,) = _found(runs, INTERACTION)
    assert (found.first, found.second) == ("flat", "pool")
    assert [[arm.name for arm in group.arms] for group in analyse(runs, STATISTICS, INTERACTION)] == [
        ["flat", "pool"],
        ["flat", "pool"],
    ]


def test_backbones_of_two_levels_begin_otherwise_and_are_groups_of_their_own() -> None:
    runs = _runs({"9×9": GROWING["5"], "13×13": GROWING["20"]})
    runs = runs.rename(columns={f"params.{EPOCHS}": "params.receptive_field"})
    runs["tags.pairing.backbone"] = runs["params.receptive_field"]
    over_field = Asks(about=About.interaction, over="receptive_field")
    groups = analyse(runs, STATISTICS, over_field)
    assert [group.title for group in groups] == [
        "small_fcn on digits at 8×8 px, receptive_field 9×9",
        "small_fcn on digits at 8×8 px, receptive_field 13×13",
    ]
    assert [group.left_out for group in groups] == [(), ()]
    assert [len(group.comparisons) for group in groups] == [1, 1]
    assert len({group.file_name for group in groups}) == 2
    (found,) = _found(runs, over_field)
    assert found.levels == ("9×9", "13×13")  # By their numbers; by their letters it would be the other way round.


def test_runs_of_other_training_images_are_not_compared() -> None:
    runs = _runs(GROWING)
    runs.loc[(runs[f"params.{EPOCHS}"] == "5") & (runs["params.seed"] == "3"), "tags.pairing.split"] = "another"
    result = contrasts(runs, STATISTICS, INTERACTION)
    assert result is not None
    assert result.left_out == ("digits: seeds 3: not trained on the same images at every value",)
    assert result.found[0].change.seeds == 4


def test_a_setting_that_was_not_swept_is_named() -> None:
    result = contrasts(_runs({"5": GROWING["5"]}), STATISTICS, INTERACTION)
    assert result is not None
    assert answer([], result, INTERACTION, STATISTICS) == (
        f"Nothing can be said of {EPOCHS}: {EPOCHS} has fewer than two values in these runs."
    )
    assert contrasts(_runs(GROWING), STATISTICS, Asks(about=About.training_size)) is None


def test_levels_are_in_the_order_of_their_numbers() -> None:
    assert [level_number(level) for level in ("5", "[28, 28]", "7×9", "0.1", "None", "adam")] == [
        *(5, 28, 7, 0.1),
        *(None, None),
    ]
    (found,) = _found(_runs({"20": GROWING["20"], "5": GROWING["5"]}), INTERACTION)
    assert found.levels == ("5", "20")
