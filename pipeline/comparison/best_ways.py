"""The best way to run each trained model at other sizes."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.common.condition import AS_IS, Mode, at_height
from pipeline.comparison.arms import Arm
from pipeline.comparison.decisions import Outcome, decide
from pipeline.comparison.estimates import Estimate, estimate
from pipeline.comparison.settings import Statistics


@dataclass(frozen=True)
class Choice:
    """The most accurate way to run an arm's models at the sizes of one side of the training size.

    Attributes:
        arm: Name of the arm.
        mode: How the images were made.
        heights: Of the images in pixels, ascending; accuracies are means over them.
        best: Name of the way; `AS_IS` for the model as it is.
        accuracy: With it.
        next_best: Name of the second best way; None if there is no other.
        difference: By how much it is less accurate.
        rivals: Ways than which the best is not better for sure, the more accurate first.
    """

    arm: str
    mode: Mode
    heights: tuple[int, ...]
    best: str
    accuracy: Estimate
    next_best: str | None
    difference: Estimate | None
    rivals: tuple[str, ...]


def choices(arms: Sequence[Arm], training_height: int, test_height: int | None, statistics: Statistics) -> list[Choice]:
    """The best way of each arm with at least two seeds, in each mode, below and above the training size.

    None where no arm was measured in another way than as it is. Every pair of ways is compared, since any of them might
    have come out best; all these comparisons are one family.

    Args:
        arms: Of one group.
        training_height: Of the training images in pixels.
        test_height: Of the test images in pixels; None with natural sizes.
        statistics: How sure a verdict has to be.
    """
    if not any(arm.ways for arm in arms):
        return []
    sides = []
    for arm, mode, larger in itertools.product(arms, Mode, (False, True)):
        heights = [px for px in arm.verdicts if (px > training_height if larger else px < training_height)]
        tables = {
            way: np.mean([arm.answers[condition] for condition in conditions], axis=0)
            for way in (AS_IS, *arm.ways)
            if (conditions := [at_height(mode, px, test_height, way) for px in heights])
            and set(conditions) <= set(arm.answers)
        }
        if tables and len(arm.seeds) > 1:
            # The more accurate first, so that of each pair it is A.
            ranked = dict(sorted(tables.items(), key=lambda item: -float(item[1].mean())))
            sides.append((arm.name, mode, tuple(heights), ranked))
    differences = [
        {pair: estimate(tables[pair[0]] - tables[pair[1]]) for pair in itertools.combinations(tables, 2)}
        for *_, tables in sides
    ]
    decisions = iter(decide([found for of_side in differences for found in of_side.values()], statistics))
    return [
        _choice(arm, mode, heights, tables, of_side, {pair: next(decisions).outcome for pair in of_side})
        for (arm, mode, heights, tables), of_side in zip(sides, differences, strict=True)
    ]


def _choice(
    arm: str,
    mode: Mode,
    heights: tuple[int, ...],
    tables: Mapping[str, np.ndarray],
    differences: Mapping[tuple[str, str], Estimate],
    outcomes: Mapping[tuple[str, str], Outcome],
) -> Choice:
    best, *others = tables
    return Choice(
        arm=arm,
        mode=mode,
        heights=heights,
        best=best,
        accuracy=estimate(tables[best]),
        next_best=others[0] if others else None,
        difference=differences[best, others[0]] if others else None,
        rivals=tuple(other for other in others if outcomes[best, other] is not Outcome.A_BETTER),
    )
