"""From a study's runs to what can be said about its arms: accuracies, paired differences, verdicts, the A/A control.

Works on one table with a row a run: what `mlflow.search_runs` gives, and beside it a column `answers.CONDITION` for
each condition that the run was tested under (see `common.condition`), which holds a bit for each test image, 1 where it
was classified right; None where the model refuses.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from scipy.stats import binomtest

from pipeline.common.condition import TEST, Condition
from pipeline.common.names import Param, Tag
from pipeline.common.size import TrainedSize, recorded_size
from pipeline.comparison.arms import (
    Arm,
    answers_by_condition,
    newest_of_each_seed,
    paired_seeds,
    result_settings,
    size_verdicts,
    split_into_arms,
)
from pipeline.comparison.estimates import Bootstrap, Estimate, Outcome, claim, estimate, holm, seeds_to_settle
from pipeline.comparison.recorded import head_function
from pipeline.comparison.settings import Statistics

CONTROL_LEVEL = 0.01
"""p value below which the A/A control has failed: it fails in one of a hundred studies in which all is well."""


@dataclass(frozen=True)
class Comparison:
    """Two arms under one condition.

    Attributes:
        first: Name of arm A.
        second: Name of arm B.
        condition: Under which.
        difference: Of the accuracies, A − B.
        outcome: What the difference comes to, once corrected for the number of comparisons.
        claimed: What it comes closest to.
        p_value: Of that claim, after Holm's correction.
        more_seeds: How many more would settle an undecided one, if nothing else changed; None if no number would.
        mcnemar: Of each seed, the exact p value of McNemar's test: about that one pair of trainings, nothing more.
    """

    first: str
    second: str
    condition: Condition
    difference: Estimate
    outcome: Outcome
    claimed: Outcome
    p_value: float
    more_seeds: int | None
    mcnemar: tuple[float, ...]


@dataclass(frozen=True)
class Control:
    """Two arms that are the same function at the training size.

    Attributes:
        first: Name of one.
        second: Name of the other.
        difference: Of their accuracies: nothing but noise, so its size is the floor below which no difference counts.
        p_value: Against "no difference"; two-sided, after Holm's correction over the controls of the study.
    """

    first: str
    second: str
    difference: Estimate
    p_value: float

    @property
    def holds(self) -> bool:
        return self.p_value >= CONTROL_LEVEL


@dataclass(frozen=True)
class Group:
    """All arms of one dataset, image size and backbone.

    Attributes:
        backbone: Its name.
        dataset: Its name.
        trained: Size of the training images.
        arms: In the order of their first runs.
        comparisons: Every pair of arms, as they are, under every condition that both take; none with a single seed.
        controls: Every pair of arms that are the same function at the training size.
        left_out: What is not compared and why, a sentence each.
    """

    backbone: str
    dataset: str
    trained: TrainedSize
    arms: tuple[Arm, ...]
    comparisons: tuple[Comparison, ...]
    controls: tuple[Control, ...]
    left_out: tuple[str, ...]

    @property
    def title(self) -> str:
        return f"{self.backbone} on {self.dataset} at {self.trained} px"

    @property
    def file_name(self) -> str:
        """The title as part of a file's name."""
        name = f"{self.backbone}-{self.dataset}-{self.trained}"
        return name.replace("/", "-").replace("×", "x").replace(", ", "-").replace(" ", "-")

    @property
    def heights(self) -> list[int]:
        """Probed heights of images in pixels, ascending."""
        return sorted({height for arm in self.arms for height in arm.verdicts})

    @property
    def other_heights(self) -> list[int]:
        """Of these, all but the height of the test images."""
        return [height for height in self.heights if height != self.trained.test_height]

    def arm(self, name: str) -> Arm:
        return next(arm for arm in self.arms if arm.name == name)


def analyse(runs: pd.DataFrame, statistics: Statistics) -> list[Group]:
    """Compares all arms of a study.

    Args:
        runs: Finished runs with their answers, see the module's docstring.
        statistics: How sure a verdict has to be; Holm's correction is over all comparisons of the study.
    """
    groups = [
        _group(group_runs, statistics.resamples)
        for _, group_runs in runs.groupby(
            [Tag.BACKBONE.column, Tag.DATASET.column, Param.IMAGE_SIZE.column], sort=False
        )
    ]
    groups = [group for group in groups if group.arms]  # All of a search's runs on a dataset may have ended early.
    claims = [[claim(found.difference, statistics.margin) for found in group.comparisons] for group in groups]
    corrected = iter(holm([p_value for group_claims in claims for _, p_value in group_claims]))
    total = sum(len(group_claims) for group_claims in claims)
    level = 1 - statistics.confidence
    decided = []
    for group, group_claims in zip(groups, claims, strict=True):
        comparisons = []
        for found, (claimed, _) in zip(group.comparisons, group_claims, strict=True):
            p_value = next(corrected)
            settled = p_value <= level
            needed = None if settled else seeds_to_settle(found.difference, statistics.margin, level / total)
            comparisons.append(
                replace(
                    found,
                    claimed=claimed,
                    outcome=claimed if settled else Outcome.UNDECIDED,
                    p_value=p_value,
                    more_seeds=None if needed is None else needed - found.difference.seeds,
                )
            )
        decided.append(replace(group, comparisons=tuple(comparisons)))
    return _correct_controls(decided)


def _correct_controls(groups: Sequence[Group]) -> list[Group]:
    """A study of several sizes has as many controls, each with its chance to fail though all is well."""
    corrected = iter(holm([control.p_value for group in groups for control in group.controls]))
    return [
        replace(group, controls=tuple(replace(control, p_value=next(corrected)) for control in group.controls))
        for group in groups
    ]


def _group(runs: pd.DataFrame, resamples: int) -> Group:
    any_run = runs.iloc[0]
    trained = recorded_size({param: any_run.get(param.column) for param in Param})
    assert trained is not None  # The runs are grouped by it.
    by_arm, left_out = newest_of_each_seed(split_into_arms(runs))
    seeds, unpaired = paired_seeds(by_arm)
    left_out += unpaired
    # Without a pair, what each arm did alone is still worth a look.
    shown = {name: arm.loc[list(seeds)] if seeds else arm for name, arm in by_arm.items()}
    answers = {name: answers_by_condition(arm, trained.test_height) if seeds else {} for name, arm in shown.items()}
    estimates: dict[str, dict[Condition, Estimate]] = {name: {} for name in by_arm}
    comparisons: list[Comparison] = []
    if len(seeds) >= 2:
        resampled = _resample(answers, len(seeds), resamples)
        for (name, under), means in resampled.items():
            estimates[name][under] = estimate(answers[name][under], means)
        for under in {under for _, under in resampled if not under.way}:
            takers = [name for name in by_arm if (name, under) in resampled]
            for first, second in itertools.combinations(takers, 2):
                right, other = answers[first][under], answers[second][under]
                means = resampled[first, under] - resampled[second, under]
                comparisons.append(
                    Comparison(
                        first=first,
                        second=second,
                        condition=under,
                        difference=estimate(right.astype(np.int8) - other.astype(np.int8), means),
                        outcome=Outcome.UNDECIDED,
                        claimed=Outcome.UNDECIDED,
                        p_value=1.0,
                        more_seeds=None,
                        mcnemar=tuple(_mcnemar(*rows) for rows in zip(right, other, strict=True)),
                    )
                )
    elif by_arm:
        left_out.append(
            f"{len(seeds) or 'no'} seed in common: nothing can be said about other trainings; at least 2 are needed"
        )
    arms = tuple(
        Arm(
            name=name,
            head=arm[Tag.HEAD.column].iloc[0],
            color=arm[Tag.COLOR.column].iloc[0],
            seeds=tuple(arm.index),
            runs=arm,
            answers=answers[name],
            accuracy=estimates[name],
            verdicts=size_verdicts(arm.iloc[0]),
        )
        for name, arm in shown.items()
    )
    comparisons.sort(key=lambda found: found.condition.order)
    return Group(
        backbone=any_run[Tag.BACKBONE.column],
        dataset=any_run[Tag.DATASET.column],
        trained=trained,
        arms=arms,
        comparisons=tuple(comparisons),
        controls=_controls(arms, comparisons),
        left_out=tuple(left_out),
    )


def _resample(
    answers: Mapping[str, Mapping[Condition, np.ndarray]], seeds: int, resamples: int
) -> dict[tuple[str, Condition], np.ndarray]:
    """Bootstrap means by arm and condition; tables of equally many images share their draws."""
    tables = {(name, under): table for name, arm_answers in answers.items() for under, table in arm_answers.items()}
    found = {}
    for images in {table.shape[1] for table in tables.values()}:
        alike = [key for key, table in tables.items() if table.shape[1] == images]
        means = Bootstrap(seeds, images, resamples).means([tables[key] for key in alike])
        found.update(dict(zip(alike, means, strict=True)))
    return found


def _mcnemar(first: np.ndarray, second: np.ndarray) -> float:
    """Exact two-sided p value (McNemar 1947, Psychometrika 12(2)) against "as many were right for one alone as for the
    other alone"."""
    only_first, only_second = int(np.sum(first & ~second)), int(np.sum(second & ~first))
    disagreeing = only_first + only_second
    return float(binomtest(only_first, disagreeing).pvalue) if disagreeing else 1.0


def _controls(arms: Sequence[Arm], comparisons: Sequence[Comparison]) -> tuple[Control, ...]:
    by_name = {arm.name: arm for arm in arms}
    controls = []
    for found in comparisons:
        if found.condition != TEST or not _same_function(by_name[found.first], by_name[found.second]):
            continue
        p_value = 2 * min(found.difference.p_above(0.0), found.difference.p_below(0.0), 0.5)
        controls.append(Control(found.first, found.second, found.difference, p_value))
    return tuple(controls)


def _same_function(first: Arm, second: Arm) -> bool:
    """Whether the heads of two arms say that they are one function at the training size, with all else equal."""
    one, other = first.runs.iloc[0], second.runs.iloc[0]
    function = head_function(one)
    if function is None or function != head_function(other):
        return False
    of_the_head = (Param.HEAD, Param.ARM)
    columns = [
        f"params.{name}"
        for name in result_settings(first.runs)
        if name not in of_the_head and not name.startswith("head.")
    ]
    return all(one[column] == other[column] for column in columns if pd.notna(one[column]) and pd.notna(other[column]))
