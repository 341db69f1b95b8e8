"""From a study's runs to what can be said about its arms: accuracies, paired differences, verdicts, the A/A control.

Works on one table with a row a run: what `mlflow.search_runs` gives, and beside it a column `answers.CONDITION` for
each condition that the run was tested under (see `common.condition`), which holds a bit for each test image, 1 where it
was classified right; None where the model refuses.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from scipy.stats import binomtest

from pipeline.common.condition import AS_IS, TEST, Condition, Mode, at_height
from pipeline.common.digest import digest_of
from pipeline.common.names import Param, Tag
from pipeline.common.settings import is_short
from pipeline.common.size import TrainedSize, recorded_size
from pipeline.comparison.arms import (
    Arm,
    answers_by_condition,
    colors,
    newest_of_each_seed,
    paired_seeds,
    size_verdicts,
    split_into_arms,
)
from pipeline.comparison.best_ways import Choice, choices
from pipeline.comparison.controls import Control, controls_of, correct_controls
from pipeline.comparison.decisions import Decision, decide
from pipeline.comparison.estimates import Estimate, WinProbability, estimate
from pipeline.comparison.levels import by_level, level_text, varies
from pipeline.comparison.settings import Asks, Statistics


@dataclass(frozen=True)
class Comparison:
    """Two arms under one condition.

    Attributes:
        first: Name of arm A.
        second: Name of arm B.
        condition: Under which.
        difference: Of the accuracies, A − B.
        wins: Probability that a run of A is more accurate than the run of B with its seed.
        mcnemar: Of each seed, the exact p value of McNemar's test: about that one pair of trainings, nothing more.
        decision: What the difference comes to, corrected for the other comparisons of its family.
    """

    first: str
    second: str
    condition: Condition
    difference: Estimate
    wins: WinProbability
    mcnemar: tuple[float, ...]
    decision: Decision


@dataclass(frozen=True)
class Group:
    """All arms of one dataset, image size and backbone, and of one level of what the study is over.

    Attributes:
        backbone: Its name.
        dataset: Its name.
        trained: Size of the training images.
        level: Of a setting whose influence the study asks about, `receptive_field 7×7`; empty where dataset, size and
            backbone say it already.
        arms: In the order of their first runs.
        comparisons: Every pair of arms, as they are, under every condition that both take; none with a single seed.
        controls: Every pair of arms that are the same function at the training size.
        choices: The best way of each arm at other sizes; none where no way was measured beside the models as they are.
        left_out: What is not compared and why, a sentence each.
    """

    backbone: str
    dataset: str
    trained: TrainedSize
    arms: tuple[Arm, ...]
    comparisons: tuple[Comparison, ...]
    controls: tuple[Control, ...]
    choices: tuple[Choice, ...]
    left_out: tuple[str, ...]
    level: str = ""

    @property
    def title(self) -> str:
        title = f"{self.backbone} on {self.dataset} at {self.trained} px"
        return f"{title}, {self.level}" if self.level else title

    @property
    def file_name(self) -> str:
        """The title as part of a file's name."""
        name = "-".join(filter(None, (self.backbone, self.dataset, str(self.trained), self.level)))
        name = name.replace("/", "-").replace("×", "x").replace(", ", "-").replace(" ", "-")
        return name if is_short(name) else digest_of(name)

    @property
    def heights(self) -> list[int]:
        """Probed heights of images in pixels, ascending."""
        return sorted({height for arm in self.arms for height in arm.verdicts})

    @property
    def other_heights(self) -> list[int]:
        """Of these, all but the height of the test images."""
        return [height for height in self.heights if height != self.trained.test_height]

    def condition(self, mode: Mode, height: int, way: str = AS_IS) -> Condition:
        """That of images of a height in pixels, made in a mode, when the models are run in a way."""
        return at_height(mode, height, self.trained.test_height, way)

    def arm(self, name: str) -> Arm:
        return next(arm for arm in self.arms if arm.name == name)


def analyse(runs: pd.DataFrame, statistics: Statistics, asks: Asks) -> list[Group]:
    """Compares all arms of a study.

    The comparisons at the training size, over all groups, are one family, those at other sizes another: asking about
    other sizes costs the verdicts at the training size nothing. Where the study names its primary comparisons, each of
    the two families is parted once more.

    Args:
        runs: Finished runs with their answers, see the module's docstring.
        statistics: How sure a verdict has to be.
        asks: What the study's question is about.
    """
    groups = [
        _group(level_runs, level, statistics)
        for _, group_runs in runs.groupby(
            [Tag.BACKBONE.column, Tag.DATASET.column, Param.IMAGE_SIZE.column], sort=False
        )
        for level, level_runs in _by_level(group_runs, asks)
    ]
    groups = [group for group in groups if group.arms]  # All of a search's runs on a dataset may have ended early.
    families: dict[tuple[bool, bool], list[tuple[int, int]]] = defaultdict(list)
    for at, group in enumerate(groups):
        for index, found in enumerate(group.comparisons):
            families[found.condition == TEST, asks.is_primary(found.first, found.second)].append((at, index))
    decided = [list(group.comparisons) for group in groups]
    for family in families.values():
        decisions = decide([decided[at][index].difference for at, index in family], statistics)
        for (at, index), decision in zip(family, decisions, strict=True):
            decided[at][index] = replace(decided[at][index], decision=decision)
    controls = correct_controls([group.controls for group in groups])
    return [
        replace(group, comparisons=tuple(comparisons), controls=corrected)
        for group, comparisons, corrected in zip(groups, decided, controls, strict=True)
    ]


def _by_level(runs: pd.DataFrame, asks: Asks) -> list[tuple[str, pd.DataFrame]]:
    """The runs of one group by what the study is over, with its name and level; all of them, where that is one."""
    if asks.over is None or not varies(runs, asks.over):
        return [("", runs)]
    name = asks.over.rpartition(".")[2]
    return [(f"{name} {level_text(level)}", level_runs) for level, level_runs in by_level(runs, asks.over)]


def _group(runs: pd.DataFrame, level: str, statistics: Statistics) -> Group:
    any_run = runs.iloc[0]
    trained = recorded_size({param: any_run.get(param.column) for param in Param})
    assert trained is not None  # The runs are grouped by it.
    by_arm, left_out = newest_of_each_seed(split_into_arms(runs))
    seeds, unpaired = paired_seeds(by_arm)
    left_out += unpaired
    # Without a pair, what each arm did alone is still worth a look.
    shown = {name: arm.loc[list(seeds)] if seeds else arm for name, arm in by_arm.items()}
    answers = {name: answers_by_condition(arm, trained.test_height) if seeds else {} for name, arm in shown.items()}
    several = len(seeds) >= 2
    if by_arm and not several:
        left_out.append(
            f"{len(seeds) or 'no'} seed in common: nothing can be said about other trainings; at least 2 are needed"
        )
    color_of = colors(by_arm)
    arms = tuple(
        Arm(
            name=name,
            head=str(arm[Tag.HEAD.column].iloc[0]),
            color=color_of[name],
            seeds=tuple(int(seed) for seed in arm.index),
            runs=arm,
            answers=answers[name],
            accuracy={under: estimate(table) for under, table in answers[name].items()} if several else {},
            verdicts=size_verdicts(arm.iloc[0]),
        )
        for name, arm in shown.items()
    )
    comparisons = _comparisons(answers, statistics) if several else []
    return Group(
        backbone=any_run[Tag.BACKBONE.column],
        dataset=any_run[Tag.DATASET.column],
        trained=trained,
        arms=arms,
        comparisons=tuple(comparisons),
        controls=controls_of(
            arms, {(found.first, found.second): found.difference for found in comparisons if found.condition == TEST}
        ),
        choices=tuple(choices(arms, trained.height, trained.test_height, statistics)),
        left_out=tuple(left_out),
        level=level,
    )


def _comparisons(answers: Mapping[str, Mapping[Condition, np.ndarray]], statistics: Statistics) -> list[Comparison]:
    """Every pair of arms, as they are, under every condition that both take; not yet corrected for each other."""
    conditions = {under for taken in answers.values() for under in taken if not under.way}
    found = []
    for under in sorted(conditions, key=lambda condition: condition.order):
        takers = [name for name, taken in answers.items() if under in taken]
        for first, second in itertools.combinations(takers, 2):
            right, other = answers[first][under], answers[second][under]
            difference = estimate(right.astype(np.int8) - other.astype(np.int8))
            found.append(
                Comparison(
                    first=first,
                    second=second,
                    condition=under,
                    difference=difference,
                    wins=WinProbability.of(right.mean(axis=1), other.mean(axis=1), statistics.confidence),
                    mcnemar=tuple(_mcnemar(*rows) for rows in zip(right, other, strict=True)),
                    decision=Decision.none(),
                )
            )
    return found


def _mcnemar(first: np.ndarray, second: np.ndarray) -> float:
    """Exact two-sided p value (McNemar 1947, Psychometrika 12(2)) against "as many were right for one alone as for the
    other alone"."""
    only_first, only_second = int(np.sum(first & ~second)), int(np.sum(second & ~first))
    disagreeing = only_first + only_second
    return float(binomtest(only_first, disagreeing).pvalue) if disagreeing else 1.0
