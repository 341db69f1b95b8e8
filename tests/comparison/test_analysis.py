"""What is said about a study, from runs whose answers are known."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from pipeline.common.condition import TEST, Condition, Mode
from pipeline.common.errors import ConfigError
from pipeline.comparison.analysis import Group, analyse
from pipeline.comparison.answers import pack, unpack
from pipeline.comparison.arms import split_into_arms
from pipeline.comparison.decisions import Outcome
from pipeline.comparison.report.answer import training_size_answer
from pipeline.comparison.report.tables import arms_table
from pipeline.comparison.settings import Statistics
from tests.comparison.studies import ASKS, STATISTICS, page_of, right_answers, run_row, study

RESIZED = Condition(Mode.RESIZE, 16)


def _only(groups: list[Group]) -> Group:
    (group,) = groups
    return group


def test_answers_survive_packing() -> None:
    for count in (1, 7, 8, 9, 1000):
        right = np.random.default_rng(count).random(count) < 0.5
        assert unpack(pack(right)).tolist() == right.tolist()
    assert len(pack(np.ones(10_000, bool))) == 4 + 1250


def test_the_mean_of_accuracies_is_the_share_of_right_answers_also_where_it_is_rounded() -> None:
    right = [np.arange(10_000) < count for count in (8974, 9369)]
    runs = pd.DataFrame([run_row("flatten_dense", seed, {"test": answers}) for seed, answers in enumerate(right)])
    assert runs["metrics.test/accuracy"].mean() == 0.9171499999999999
    (arm,) = _only(analyse(runs, STATISTICS, ASKS)).arms
    assert arm.mean("metrics.test/accuracy") == arm.share_right(TEST) == (8974 + 9369) / 20_000 == 0.91715


def test_verdicts_follow_the_answers() -> None:
    group = _only(analyse(study(), STATISTICS, ASKS))
    assert group.left_out == ()
    found = {(each.first, each.second, str(each.condition)): each for each in group.comparisons}
    assert set(found) == {
        ("flatten_dense", "average_pool", "test"),
        ("flatten_dense", "global_average_pool", "test"),
        ("average_pool", "global_average_pool", "test"),
    }  # 16 px has one taker only.
    better = found["flatten_dense", "global_average_pool", "test"]
    flatten, globally = (
        np.mean([right_answers(share, 3 * seed + at).mean() for seed in range(5)])
        for share, at in ((0.95, 0), (0.9, 2))
    )
    assert better.difference.mean == pytest.approx(flatten - globally)
    assert better.decision.outcome is Outcome.A_BETTER
    alike = found["average_pool", "global_average_pool", "test"]
    assert (alike.decision.outcome, alike.decision.claimed) == (Outcome.EQUIVALENT, Outcome.EQUIVALENT)
    # Holm: the largest of three p values is not multiplied, so each is at least as large as on its own.
    assert all(0 <= each.decision.p_value <= 0.05 for each in found.values())
    assert len(alike.mcnemar) == 5
    (control,) = group.controls
    assert control.holds
    assert control.difference.mean == alike.difference.mean
    assert group.arm("global_average_pool").accuracy[RESIZED].mean == pytest.approx(0.5, abs=0.02)
    assert RESIZED not in group.arm("flatten_dense").accuracy


def test_a_control_that_fails_is_told() -> None:
    (control,) = _only(analyse(study(average=0.93), STATISTICS, ASKS)).controls
    assert not control.holds


@pytest.mark.long
def test_controls_of_several_sizes_are_corrected_for_their_number() -> None:
    alone = study(average=0.91)
    alone["params.image_size"] = "16×16"
    (unlikely,) = _only(analyse(alone, STATISTICS, ASKS)).controls
    (likely,) = _only(analyse(study(), STATISTICS, ASKS)).controls
    assert unlikely.p_value < likely.p_value / 2  # So Holm's factors are 2 and 1.
    corrected = [
        control for group in analyse(pd.concat([study(), alone]), STATISTICS, ASKS) for control in group.controls
    ]
    assert [control.p_value for control in corrected] == pytest.approx([likely.p_value, 2 * unlikely.p_value])


@pytest.mark.parametrize(
    "change",
    [{"params.head.pool_size": "[1, 1]"}, {"params.head.padding": "same"}, {"params.training.epochs": "3"}],
    ids=str,
)
def test_heads_that_are_not_the_same_function_are_no_control(change: dict[str, str]) -> None:
    runs = study().assign(**{"params.training.epochs": "5"})
    runs.loc[runs["tags.head"] == "average_pool", list(change)] = list(change.values())
    assert _only(analyse(runs, STATISTICS, ASKS)).controls == ()


def test_trainings_that_ended_early_are_named_and_not_compared() -> None:
    runs = study(seeds=3)
    early = (runs["tags.head"] == "average_pool") & (runs["params.seed"] == "1")
    runs.loc[early, "tags.pruned"] = "after epoch 1: …"
    group = _only(analyse(runs, STATISTICS, ASKS))
    assert group.left_out == (
        "average_pool: the trainings of seeds 1 ended early",
        "average_pool: no finished run with seeds 1",
    )
    assert [arm.seeds for arm in group.arms] == [(0, 2)] * len(group.arms)
    all_early = runs.assign(**{"tags.dataset": "mnist", "tags.pruned": "after epoch 1: …"})
    group = _only(analyse(pd.concat([runs, all_early], ignore_index=True), STATISTICS, ASKS))
    assert group.dataset == "digits"


def test_a_backbone_from_scratch_is_compared_with_a_trained_one_and_another_start_by_accident_is_not() -> None:
    runs = study(seeds=3)
    other = runs["tags.head"] == "average_pool"
    runs.loc[other, "tags.pairing.backbone"] = "other weights"
    group = _only(analyse(runs, STATISTICS, ASKS))
    assert group.left_out[0] == "seed 0: the runs did not start from the same backbone"
    assert not group.comparisons
    meant = runs.assign(**{"params.backbone.fresh_weights": "False"})
    meant.loc[other, "params.backbone.fresh_weights"] = "True"
    group = _only(analyse(meant, STATISTICS, ASKS))
    assert [arm.seeds for arm in group.arms] == [(0, 1, 2)] * 3
    assert {each.difference.seeds for each in group.comparisons} == {3}
    # Two arms of one origin still have to begin with the same.
    meant.loc[meant["tags.head"] == "flatten_dense", "tags.pairing.backbone"] = "weights of another file of that name"
    group = _only(analyse(meant, STATISTICS, ASKS))
    assert group.left_out[0] == "seed 0: the runs did not start from the same backbone"


def test_unpaired_and_missing_runs_are_named_and_not_compared() -> None:
    runs = study(seeds=6)
    runs = runs.drop(runs.index[(runs["tags.head"] == "average_pool") & (runs["params.seed"] == "4")])
    runs.loc[(runs["tags.head"] == "flatten_dense") & (runs["params.seed"] == "1"), "tags.pairing.batches"] = "others"
    runs.loc[runs["params.seed"] == "2", "tags.pairing.split"] = None
    again = runs[runs["run_id"] == "flatten_dense0"].assign(start_time=pd.Timestamp(2025, 1, 1))
    group = _only(analyse(pd.concat([runs, again], ignore_index=True), STATISTICS, ASKS))
    assert group.left_out == (
        "flatten_dense: older runs of seeds 0 do not count",
        "average_pool: no finished run with seeds 4",
        "seed 1: the runs did not start from the same batches",
        "seed 2: the runs did not start from the same split",
    )
    assert [arm.seeds for arm in group.arms] == [(0, 3, 5)] * 3
    assert {each.difference.seeds for each in group.comparisons} == {3}


def test_one_seed_is_not_compared() -> None:
    group = _only(analyse(study(seeds=1), STATISTICS, ASKS))
    assert (group.comparisons, group.controls) == ((), ())
    assert group.left_out == ("1 seed in common: nothing can be said about other trainings; at least 2 are needed",)
    assert [len(arm.runs) for arm in group.arms] == [1, 1, 1]


def test_arms_without_a_pair_are_shown_and_not_compared() -> None:
    """As with different batch sizes: no two runs saw the same batches."""
    runs = study(seeds=3)
    runs["tags.pairing.batches"] = runs["run_id"]
    group = _only(analyse(runs, STATISTICS, ASKS))
    assert (group.comparisons, group.controls) == ((), ())
    assert group.left_out == (
        *(f"seed {seed}: the runs did not start from the same batches" for seed in range(3)),
        "no seed in common: nothing can be said about other trainings; at least 2 are needed",
    )
    assert [arm.seeds for arm in group.arms] == [(0, 1, 2)] * 3
    assert "nothing can be said" in training_size_answer(group, ASKS, STATISTICS)
    assert len(arms_table(group, STATISTICS).rows) == 3
    assert "did not start from the same batches" in page_of(runs)


def test_few_seeds_leave_a_small_difference_undecided_and_say_how_many_would_do() -> None:
    group = _only(analyse(study(seeds=3, gap=0.945), Statistics(margin=0.004), ASKS))
    (found,) = [
        each for each in group.comparisons if (each.first, each.second) == ("flatten_dense", "global_average_pool")
    ]
    assert found.decision.outcome is Outcome.UNDECIDED
    low, high = found.difference.interval(0.95)
    assert low < 0.004 < high


def test_datasets_and_sizes_are_not_mixed() -> None:
    runs = pd.concat([study(), study().assign(**{"tags.dataset": "mnist", "params.image_size": "28×28"})])
    groups = analyse(runs.reset_index(drop=True), STATISTICS, ASKS)
    assert [group.title for group in groups] == ["small_fcn on digits at 8×8 px", "small_fcn on mnist at 28×28 px"]
    assert math.isclose(groups[0].comparisons[0].decision.p_value, groups[1].comparisons[0].decision.p_value)


def test_runs_that_differ_in_more_than_the_seed_are_arms_of_their_own() -> None:
    runs = pd.DataFrame(
        {
            "run_id": ["a0", "b0", "a1", "b1"],
            "tags.head": ["pool", "flat", "pool", "flat"],
            "params.seed": ["0", "0", "1", "1"],
            "params.head.strides": ["[1, 1]", None, "[2, 2]", None],
        }
    )
    assert [(name, arm["run_id"].tolist()) for name, arm in split_into_arms(runs)] == [
        ("pool head.strides=[1, 1]", ["a0"]),
        ("pool head.strides=[2, 2]", ["a1"]),
        ("flat", ["b0", "b1"]),
    ]
    named = runs.drop(columns="params.head.strides").assign(
        **{"params.arm": ["None", "flatten", "None", "flatten_dropout"], "params.head.dropout": ["0", "0", "0", "0.5"]}
    )
    assert [(name, arm["run_id"].tolist()) for name, arm in split_into_arms(named)] == [
        ("pool", ["a0", "a1"]),
        ("flatten", ["b0"]),
        ("flatten_dropout", ["b1"]),
    ]


def test_settings_that_change_no_result_do_not_part_a_study() -> None:
    runs = study(seeds=3)
    first = runs["params.seed"] == "0"
    for setting, (one, other) in {
        "rerun": ("True", "False"),
        "output_dir": ("/a", "/b"),
        "tracking.uri": ("None", "http://127.0.0.1:5000"),
        "statistics.margin": ("0.005", "0.01"),
        "training.checkpoint_seconds": ("30.0", "1.0"),
        "dataset.path": ("/a/icons", "/b/icons"),
    }.items():
        runs[f"params.{setting}"] = np.where(first, one, other)
    group = _only(analyse(runs, STATISTICS, ASKS))
    assert [(arm.name, arm.seeds) for arm in group.arms] == [
        (head, (0, 1, 2)) for head in ("flatten_dense", "average_pool", "global_average_pool")
    ]
    assert len(group.controls) == 1


def test_heads_within_one_arm_are_told_apart() -> None:
    runs = pd.DataFrame(
        {
            "run_id": ["a", "b", "c", "d"],
            "tags.head": ["pool", "flat", "pool", "flat"],
            "params.seed": ["0", "0", "1", "1"],
            "params.arm": "long",
            "params.head.strides": ["[1, 1]", None, "[1, 1]", None],
        }
    )
    assert [(name, arm["run_id"].tolist()) for name, arm in split_into_arms(runs)] == [
        ("long head=pool", ["a", "c"]),
        ("long head=flat", ["b", "d"]),
    ]


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"margin": 0.0}, r"statistics.margin=0.0: must lie in \(0, 1\)"),
        ({"confidence": 1.0}, r"statistics.confidence=1.0: must lie in \[0.5, 1\)"),
    ],
)
def test_statistics_out_of_range_are_refused(setting: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Statistics(**setting)


def test_at_natural_sizes_the_reference_is_a_condition_of_its_own() -> None:
    runs = []
    for seed in range(3):
        for head, share in (("global_average_pool", 0.9), ("another", 0.8)):
            right = {
                name: right_answers(share, seed) for name in ("test", "resize_008px", "canvas_008px", "resize_016px")
            }
            runs.append(run_row(head, seed, right, **{"params.image_size": "natural, about 8×8"}))
    natural = _only(analyse(pd.DataFrame(runs), STATISTICS, ASKS))
    trained = natural.trained
    assert (trained.height, trained.test_height, trained.in_words) == (8, None, "natural sizes")
    assert natural.file_name == "small_fcn-digits-natural-about-8x8"
    conditions = ["test", "canvas_008px", "resize_008px", "resize_016px"]
    assert [str(found.condition) for found in natural.comparisons] == conditions
    fixed = _only(analyse(pd.DataFrame(runs).assign(**{"params.image_size": "8×8"}), STATISTICS, ASKS))
    assert [str(found.condition) for found in fixed.comparisons] == ["test", "resize_016px"]
