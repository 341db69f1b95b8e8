"""The A/A control: arms that are the same function, between which a study should find nothing but noise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from scipy.stats import norm, permutation_test

from pipeline.common.condition import TEST
from pipeline.common.names import Param
from pipeline.comparison.arms import Arm, result_settings
from pipeline.comparison.decisions import holm
from pipeline.comparison.estimates import Estimate
from pipeline.comparison.recorded import head_function

CONTROL_LEVEL = 0.01
"""p value below which the A/A control has failed: it fails in one of a hundred studies in which all is well."""
CONTROL_POWER = 0.8
"""How likely the control finds the bias that it is said to be able to find."""
PAIRING_LEVEL = 0.05
"""p value up to which pairs of runs are said to agree more than runs that are no pair."""


@dataclass(frozen=True)
class Agreement:
    """Whether two arms' runs with the same seed are pairs: they started from the same, so they err alike.

    Attributes:
        same_seed: Share of the test images that one of two runs with the same seed gets right and the other wrong.
        other_seed: The same of two runs with different seeds.
        p_value: Against "the seeds mean nothing": share of all ways to pair the runs that disagree no more than theirs.
    """

    same_seed: float
    other_seed: float
    p_value: float

    @property
    def shows(self) -> bool | None:
        """Whether the pairing shows; None with so few seeds that it could not."""
        if self.p_value <= PAIRING_LEVEL:
            return True
        return None if self.same_seed < self.other_seed else False


@dataclass(frozen=True)
class Control:
    """Two arms that are the same function at the training size.

    Attributes:
        first: Name of one.
        second: Name of the other.
        difference: Of their accuracies: nothing but noise, so its size is the floor below which no difference counts.
        p_value: Against "no difference"; two-sided, after Holm's correction over the controls of the study.
        agreement: Of their runs.
    """

    first: str
    second: str
    difference: Estimate
    p_value: float
    agreement: Agreement

    @property
    def holds(self) -> bool:
        return self.p_value >= CONTROL_LEVEL

    @property
    def detectable(self) -> float:
        """Bias between the two that it would have found in `CONTROL_POWER` of such studies, about."""
        beyond = float(norm.ppf(CONTROL_POWER)) * self.difference.standard_error
        return self.difference.half_width(1 - CONTROL_LEVEL) + beyond


def controls_of(arms: Sequence[Arm], differences: Mapping[tuple[str, str], Estimate]) -> tuple[Control, ...]:
    """The controls among the compared pairs of arms, not yet corrected for each other.

    Args:
        arms: Of one group.
        differences: Of the accuracies at the training size, by the names of both arms.
    """
    by_name = {arm.name: arm for arm in arms}
    controls = []
    for (first, second), difference in differences.items():
        one, other = by_name[first], by_name[second]
        if _same_function(one, other):
            p_value = 2 * min(difference.p_above(0.0), difference.p_below(0.0), 0.5)
            agreement = agreement_of(one.answers[TEST], other.answers[TEST])
            controls.append(Control(first, second, difference, p_value, agreement))
    return tuple(controls)


def correct_controls(controls: Sequence[Sequence[Control]]) -> list[tuple[Control, ...]]:
    """A study of several sizes has as many controls, each with its chance to fail though all is well."""
    corrected = iter(holm([control.p_value for of_group in controls for control in of_group]))
    return [tuple(replace(control, p_value=next(corrected)) for control in of_group) for of_group in controls]


def agreement_of(first: np.ndarray, second: np.ndarray) -> Agreement:
    """How alike runs with the same seed err, from what two arms got right, bool (S, N) each."""
    disagree = np.array([[np.mean(one != other) for other in second] for one in first])  # (S, S)
    seeds = np.arange(len(disagree))

    def of_pairs(second_seeds: np.ndarray) -> float:
        return float(disagree[seeds, second_seeds].mean())

    result = permutation_test(
        (seeds,), of_pairs, permutation_type="pairings", alternative="less", n_resamples=9999, rng=0
    )
    same_seed = of_pairs(seeds)
    others = len(seeds) * (len(seeds) - 1)
    return Agreement(same_seed, float((disagree.sum() - disagree.trace()) / others), float(result.pvalue))


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
