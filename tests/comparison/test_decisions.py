"""Verdicts: rules by hand, and studies whose truth is known."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy.stats import norm, t
from statsmodels.stats.multitest import multipletests

from pipeline.comparison.decisions import (
    FEWEST_SEEDS,
    Advice,
    Outcome,
    claim,
    decide,
    holm,
    seeds_for_even_chance,
)
from pipeline.comparison.estimates import Estimate, estimate
from pipeline.comparison.settings import Statistics
from tests.benchmarks.interval_coverage import GENERATORS, rates

MARGIN = 0.01


def _of_seeds(mean: float, deviation: float, seeds: int = 5) -> Estimate:
    """Of so many images that seeds alone make a difference; these have this standard deviation."""
    images = 10**9
    return Estimate(mean, seeds, images, images * deviation**2, 0.0, 0.0)


def test_a_verdict_can_be_read_off_the_interval() -> None:
    for mean, deviation in itertools.product((-0.05, -0.01, 0.0, 0.012, 0.02, 0.05), (0.001, 0.005, 0.02)):
        found = _of_seeds(mean, deviation)
        low, high = found.interval(0.95)
        outcome, p_value = claim(found, MARGIN)
        decided = p_value <= 0.05
        assert (decided and outcome is Outcome.A_BETTER) == (low >= MARGIN)
        assert (decided and outcome is Outcome.B_BETTER) == (high <= -MARGIN)
        assert (decided and outcome is Outcome.EQUIVALENT) == (low >= -MARGIN and high <= MARGIN)


def test_from_two_seeds_there_is_no_verdict() -> None:
    sure = _of_seeds(0.5, 1e-6, seeds=2)
    assert claim(sure, MARGIN)[1] < 0.05
    assert decide([sure], Statistics())[0].outcome is Outcome.UNDECIDED
    assert decide([_of_seeds(0.5, 1e-6, seeds=FEWEST_SEEDS)], Statistics())[0].outcome is Outcome.A_BETTER


def test_arms_that_always_agree_are_equivalent_only_with_enough_images() -> None:
    assert claim(estimate(np.zeros((5, 50))), MARGIN)[1] > 0.05
    outcome, p_value = claim(estimate(np.zeros((5, 300))), MARGIN)
    assert outcome is Outcome.EQUIVALENT
    assert p_value == pytest.approx(2 * norm.sf(0.01 / (math.sqrt(2) / 300)))  # 2.12 standard errors: 0.034


def test_three_close_seeds_are_judged_by_three() -> None:
    """Differences of 3.0, 3.5 and 2.6 points: t = (3.03 − 0.5)/(0.451/√3) = 9.73 with 2 degrees of freedom."""
    found = estimate(np.repeat([[0.030], [0.035], [0.026]], 100_000, axis=1))
    outcome, p_value = claim(found, 0.005)
    assert outcome is Outcome.A_BETTER
    assert p_value == pytest.approx(2 * t.sf(9.73, 2), rel=0.01)  # 0.0104


def test_holm_multiplies_the_smallest_by_the_number_of_claims() -> None:
    # Sorted: 0.01·3, 0.03·2, 0.04·1, and none below the one before it.
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == pytest.approx([1.0, 1.0])
    assert holm([]) == []
    p_values = np.random.default_rng(0).random(20) ** 3
    assert holm(p_values.tolist()) == pytest.approx(multipletests(p_values, method="holm")[1])


def test_a_family_is_corrected_together() -> None:
    alone = decide([_of_seeds(0.03, 0.014)], Statistics())[0]
    among = decide([_of_seeds(0.03, 0.014), *[_of_seeds(0.0, 0.5)] * 4], Statistics())[0]
    assert among.p_value == pytest.approx(5 * alone.p_value)
    assert (alone.outcome, among.outcome) == (Outcome.A_BETTER, Outcome.UNDECIDED)


def test_the_advice_is_an_even_chance() -> None:
    # The mean is 0.02 − 0.01 beyond δ. With n seeds the interval reaches t(97.5 %, n − 1)·0.02/√n: 0.01 or less for the
    # first time at n = 18: 2.110·0.02/√18 = 0.00995; at 17, 2.120·0.02/√17 = 0.01028.
    found = _of_seeds(0.02, 0.02)
    assert seeds_for_even_chance(found, MARGIN, 0.05) == 18
    # If the estimate is the truth, about half of such studies come out decided.
    draws = np.random.default_rng(0).normal(0.02, 0.02, (4000, 18))
    half = t.ppf(0.975, 17) * draws.std(axis=1, ddof=1) / np.sqrt(18)
    assert np.mean(draws.mean(axis=1) - half > MARGIN) == pytest.approx(0.5, abs=0.05)


def test_no_number_is_named_where_none_helps() -> None:
    # A standard error of 0.02/√5 = 0.0089 from δ.
    assert seeds_for_even_chance(_of_seeds(0.0185, 0.02), MARGIN, 0.05) is Advice.TOO_NEAR
    assert isinstance(seeds_for_even_chance(_of_seeds(0.0195, 0.02), MARGIN, 0.05), int)
    # 1.2 standard errors of the images away from δ, which no seeds change.
    of_images = Estimate(0.022, 5, 10_000, 0.0, 5.0, 0.0)
    assert of_images.standard_error == pytest.approx(0.01, abs=0.0002)
    assert seeds_for_even_chance(of_images, MARGIN, 0.05) is Advice.NOT_WITH_THESE_IMAGES


@pytest.mark.slow
@pytest.mark.parametrize("name", GENERATORS)
@pytest.mark.parametrize(("seeds", "images"), [(3, 100), (3, 1000), (5, 360), (10, 1000)])
def test_intervals_hold_the_truth_and_verdicts_are_seldom_wrong(name: str, seeds: int, images: int) -> None:
    """The whole table is made by tests/benchmarks/interval_coverage.py; this is a part of it, the same each time.

    Of 600 studies, 93 % are at least held 97 times in 100 if 95 % are in truth: √(0.95·0.05/600) = 0.9 %.
    """
    found = rates(name, seeds, images, studies=600, families=60)
    assert found.difference >= 0.93
    if found.disagreeing >= 30:  # Coarser answers cannot hold the truth in just 95 of 100.
        assert found.difference <= 0.995
    assert found.false_at_delta <= 0.07  # As seldom as the interval does not hold the truth.
    assert found.false_in_family <= 0.05
