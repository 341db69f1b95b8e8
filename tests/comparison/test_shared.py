"""Several studies in one report."""

from __future__ import annotations

import pandas as pd

from pipeline.common.condition import TEST
from pipeline.comparison.analysis import analyse
from pipeline.comparison.shared import together, without_repeats
from tests.comparison.studies import ASKS, STATISTICS, study


def test_trainings_that_two_studies_share_count_once_and_are_named() -> None:
    one = study(seeds=3).assign(**{"tags.study": "one"})
    other = study(seeds=4, gap=0.91).assign(**{"tags.study": "other"})
    runs, sentences = without_repeats(together([one, other]))
    # Seeds 0 to 2 of two heads; the third head gets another share right, and seed 3 is the other study's own.
    assert sentences == [
        "one and other share 6 trainings (seeds 0, 1, 2): what they say of these is one finding, not two. Each counts "
        "once"
    ]
    assert len(runs) == 9 + 12 - 6
    alone, none = without_repeats(one)
    assert (len(alone), none) == (9, [])


def test_what_one_study_did_not_record_tells_no_arms_apart() -> None:
    one = study().assign(**{"tags.study": "one", "params.head.new": "1"})
    other = study().assign(**{"tags.study": "other", "params.training.later": "x", "params.training.epochs": "5"})
    other["params.head"] = other["tags.head"] = other["tags.head"] + "_2"
    assert "params.training.later" not in together([one, other])
    (group,) = analyse(together([one, other]), STATISTICS, ASKS)
    assert [arm.name for arm in group.arms] == [
        *("flatten_dense", "average_pool", "global_average_pool"),
        *("flatten_dense_2", "average_pool_2", "global_average_pool_2"),
    ]
    assert sum(found.condition == TEST for found in group.comparisons) == 6 * 5 / 2


def test_settings_that_differ_between_studies_are_in_the_names_of_the_arms() -> None:
    frames: list[pd.DataFrame] = [
        study().assign(**{"tags.study": f"of {epochs}", "params.training.epochs": epochs}) for epochs in ("3", "5")
    ]
    frames[1]["answers.test"] = frames[1]["answers.test"].map(lambda packed: packed[:-1] + bytes([packed[-1] ^ 1]))
    (group,) = analyse(together(frames), STATISTICS, ASKS)
    assert "flatten_dense training.epochs=5" in [arm.name for arm in group.arms]


def test_a_study_of_heads_and_one_of_arms_are_compared() -> None:
    heads = study().assign(**{"tags.study": "heads"})
    arms = study(gap=0.91, average=0.92).assign(**{"tags.study": "arms"})
    arms["params.arm"] = "arm_" + arms["tags.head"]
    (group,) = analyse(without_repeats(together([heads, arms]))[0], STATISTICS, ASKS)
    # Flatten + Dense gets the same right in both, so it is one training and counts as the first study's.
    assert [arm.name for arm in group.arms] == [
        *("flatten_dense", "average_pool", "global_average_pool"),
        *("arm_average_pool", "arm_global_average_pool"),
    ]
