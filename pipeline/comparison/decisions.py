"""What is decided about the comparisons of a study, and what it would take to decide the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from pipeline.comparison.estimates import Estimate
from pipeline.comparison.settings import Statistics

FEWEST_SEEDS = 3
"""With fewer there is no verdict: from two seeds, a t interval reaches 13 standard errors to both sides."""
MOST_SEEDS = 100
"""More seeds than this are no advice: then it is the data set that is too small."""


class Outcome(StrEnum):
    """What a study says about two arms A and B, given the smallest difference of interest δ."""

    A_BETTER = "A better"
    B_BETTER = "B better"
    EQUIVALENT = "equivalent"
    UNDECIDED = "undecided"


def claim(difference: Estimate, margin: float) -> tuple[Outcome, float]:
    """What the difference A − B comes closest to showing, and the p value of that claim.

    The claims are: A is better by more than δ, B is, or neither (two one-sided tests: Schuirmann 1987, Journal of
    Pharmacokinetics and Biopharmaceutics 15(6)). Each has half the level on either side of a bound. So where p is at
    most 1 − confidence, the interval lies beyond δ, below −δ, or between both; and at a difference of just δ, where two
    of the claims are false, both together are made no more often than the level says.

    Args:
        difference: Of the accuracies.
        margin: δ > 0.
    """
    p_values = {
        Outcome.A_BETTER: difference.p_above(margin),
        Outcome.B_BETTER: difference.p_below(-margin),
        Outcome.EQUIVALENT: max(difference.p_above(-margin), difference.p_below(margin)),
    }
    outcome = min(p_values, key=lambda name: p_values[name])
    return outcome, min(1.0, 2 * p_values[outcome])


def holm(p_values: Sequence[float]) -> list[float]:
    """p values after Holm's correction (1979, Scandinavian Journal of Statistics 6(2)), in the order given."""
    order = np.argsort(p_values, kind="stable")
    adjusted = np.empty(len(p_values))
    largest = 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted.tolist()


class Advice(StrEnum):
    """Why no number of seeds is named."""

    TOO_NEAR = "too near δ to tell how many more seeds it takes"
    NOT_WITH_THESE_IMAGES = "not with this data set"


def seeds_for_even_chance(difference: Estimate, margin: float, level: float) -> int | Advice:
    """With how many seeds a study would have an even chance of a verdict, if the truth is the estimate.

    Then the next study's mean is as often above as below the present one; it decides where it is as far from the
    nearest bound as its interval reaches.

    Args:
        difference: Of the accuracies.
        margin: δ.
        level: p value that decides, after any correction.
    """
    distance = abs(abs(difference.mean) - margin)
    if distance <= difference.standard_error:
        return Advice.TOO_NEAR  # By chance alone it may lie on the other side of δ.
    for seeds in range(difference.seeds + 1, MOST_SEEDS + 1):
        if seeds >= FEWEST_SEEDS and difference.half_width(1 - level, seeds) <= distance:
            return seeds
    return Advice.NOT_WITH_THESE_IMAGES


@dataclass(frozen=True)
class Decision:
    """What a difference A − B comes to, once corrected for the others of its family.

    Attributes:
        outcome: What is decided.
        claimed: What the difference comes closest to showing.
        p_value: Of that claim, after Holm's correction over the family.
        advice: With how many seeds an undecided comparison has an even chance of a verdict, or why none are named; None
            for one that is decided.
    """

    outcome: Outcome
    claimed: Outcome
    p_value: float
    advice: int | Advice | None

    @classmethod
    def none(cls) -> Decision:
        """Of a difference whose family is not complete yet."""
        return cls(Outcome.UNDECIDED, Outcome.UNDECIDED, 1.0, None)


def decide(family: Sequence[Estimate], statistics: Statistics) -> list[Decision]:
    """Decides the comparisons that are corrected together, in their order.

    Args:
        family: Differences of accuracies.
        statistics: How sure a verdict has to be; none of the verdicts of a family is wrong, so sure.
    """
    level = 1 - statistics.confidence
    claims = [claim(difference, statistics.margin) for difference in family]
    corrected = holm([p_value for _, p_value in claims])
    decisions = []
    for difference, (claimed, _), p_value in zip(family, claims, corrected, strict=True):
        settled = p_value <= level and difference.seeds >= FEWEST_SEEDS
        advice = None if settled else seeds_for_even_chance(difference, statistics.margin, level / len(family))
        decisions.append(Decision(claimed if settled else Outcome.UNDECIDED, claimed, p_value, advice))
    return decisions
