"""The estimates: against arithmetic by hand, and against other hands' statistics."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pandas as pd
import pytest
import statsmodels.formula.api as smf
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest, norm, t, ttest_1samp
from statsmodels.stats.anova import anova_lm
from statsmodels.stats.proportion import proportion_confint

from pipeline.comparison.estimates import Estimate, WinProbability, estimate


def _of_seeds(*differences: float, images: int = 10_000) -> np.ndarray:
    """Differences that all images have alike, so that images and rest vary by nothing."""
    return np.repeat(np.array(differences)[:, np.newaxis], images, axis=1)


def test_mean_squares_are_those_of_the_two_way_layout() -> None:
    table = np.array([[0.0, 0.0, 0.0, 0.0], [1.0, 1.0, 0.0, 1.0]])
    # Rows 0 and 3/4: SS 4·2·(3/8)² = 9/8, over 1. Columns 1/2, 1/2, 0, 1/2: mean 3/8, SS 2·(3·(1/8)² + (3/8)²) = 3/8,
    # over 3. All: 3 − 8·(3/8)² = 15/8, rest 15/8 − 9/8 − 3/8 = 3/8, over 1·3.
    found = estimate(table)
    assert found.mean == 3 / 8
    assert (found.seed_square, found.image_square, found.rest_square) == pytest.approx((9 / 8, 1 / 8, 1 / 8))


def test_mean_squares_are_those_of_another_hand() -> None:
    table = np.random.default_rng(0).integers(-1, 2, (4, 12))
    cells = pd.DataFrame([(seed, image, cell) for (seed, image), cell in np.ndenumerate(table)], columns=list("six"))
    anova = anova_lm(smf.ols("x ~ C(s) + C(i)", cells).fit())
    found = estimate(table)
    squares = (found.seed_square, found.image_square, found.rest_square)
    assert squares == pytest.approx(anova["sum_sq"] / anova["df"])


def test_where_seeds_alone_differ_it_is_the_t_test_over_them() -> None:
    differences = np.array([0.030, 0.035, 0.026])
    found = estimate(_of_seeds(*differences))
    test = ttest_1samp(differences, 0.0)
    # Two images are added, which is 1.96·√2/10,000 = 0.0003 on the interval's half.
    half = t.ppf(0.975, 2) * differences.std(ddof=1) / math.sqrt(3)
    assert found.interval(0.95) == pytest.approx(
        (found.mean - math.hypot(half, 0.000277), found.mean + math.hypot(half, 0.000277)), abs=1e-6
    )
    assert tuple(test.confidence_interval()) == pytest.approx((found.mean - half, found.mean + half))
    assert 2 * found.p_above(0.0) == pytest.approx(test.pvalue, rel=0.01)


def test_three_seeds_that_agree_are_still_three() -> None:
    """Seeds whose differences lie closer together than their images let them are no proof that seeds do not matter."""
    draws = np.random.default_rng(0)
    rows = [np.r_[np.ones(65), -np.ones(35), np.zeros(900)]] * 3  # Each seed 3 points ahead: 100 disagreements.
    table = np.stack([draws.permutation(row) for row in rows])
    found = estimate(table)
    assert found.mean == pytest.approx(0.03)
    assert found.seed_square == pytest.approx(0)
    # As if seeds made no difference: the rest's variance of about 0.1 over 3·1,000 cells, and no less.
    assert found.half_width(0.95) >= norm.ppf(0.975) * math.sqrt(found.rest_square / 3000)
    apart = estimate(np.concatenate([table[:2], table[2:] * 0]))  # 3, 3 and 0 points.
    spread = np.array([0.03, 0.03, 0.0]).std(ddof=1) / math.sqrt(3)
    assert apart.half_width(0.95) >= t.ppf(0.975, 2) * spread


def test_no_disagreement_is_no_proof() -> None:
    found = estimate(np.zeros((3, 50)))
    half = norm.ppf(0.975) * math.sqrt(2) / 50
    assert found.interval(0.95) == pytest.approx((-half, half))
    assert found.p_below(0.005) > 0.4
    # Equivalence within δ takes N images where 1.96·√2/N ≤ δ: for half a point, 2.77/0.005 = 554.4.
    assert estimate(np.zeros((3, 554))).half_width(0.95) > 0.005 >= estimate(np.zeros((3, 555))).half_width(0.95)
    # 50 of 50 right: of an accuracy of 0.94 one would see that in 5 of 100 (the rule of three).
    low, _ = estimate(np.ones((3, 50))).interval(0.95)
    assert low == pytest.approx(1 - 2.77 / 50, abs=1e-3)


def test_images_vary_as_those_of_another_hand() -> None:
    """Seeds that answer alike say no more than one: the interval is that of a share of images, two images added."""
    right = np.arange(200) < 120
    found = estimate(np.stack([right] * 5).astype(float))
    half = norm.ppf(0.975) * math.sqrt(0.6 * 0.4 / 199 + 2 / 200**2)
    assert found.interval(0.95) == pytest.approx((0.6 - half, 0.6 + half))
    assert found.interval(0.95) == pytest.approx(proportion_confint(120, 200, method="normal"), abs=0.002)


def test_more_seeds_do_not_make_images_vary_less() -> None:
    found = Estimate(0.02, 5, 10_000, 0.0, 25.0, 0.0)  # σ²(image)/N = 25/(5·10,000) = 0.0005.
    assert found.half_width(0.95, seeds=100) == pytest.approx(found.half_width(0.95))
    of_seeds = Estimate(0.02, 5, 10**9, 1e9 * 0.0016, 0.0, 0.0)  # Seeds with a standard deviation of 0.04.
    assert of_seeds.half_width(0.95, seeds=100) == pytest.approx(t.ppf(0.975, 99) * 0.04 / 10)


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 12), st.integers(2, 60), st.integers(0, 2**32 - 1), st.floats(0.5, 0.999))
def test_intervals_and_p_values_belong_together(seeds: int, images: int, draw: int, confidence: float) -> None:
    """The bound of an interval is the value that the data reject at half of the rest on one side."""
    found = estimate(np.random.default_rng(draw).integers(-1, 2, (seeds, images)))
    low, high = found.interval(confidence)
    assert found.p_above(low) == pytest.approx((1 - confidence) / 2)
    assert found.p_below(high) == pytest.approx((1 - confidence) / 2)
    assert found.p_above(high) == pytest.approx((1 + confidence) / 2)
    assert found.p_above(found.mean) == pytest.approx(0.5)
    assert found.p_above(0.1) + found.p_below(0.1) == pytest.approx(1)


@pytest.mark.parametrize("seeds", [2, 3, 4, 5, 10, 20, 100])
def test_a_p_value_falls_with_the_distance_and_is_never_zero(seeds: int) -> None:
    found = estimate(_of_seeds(*np.linspace(-0.01, 0.01, seeds)))
    p_values = [found.p_above(-distance) for distance in np.geomspace(1e-4, 1e30, 200)]
    assert all(after <= before for before, after in itertools.pairwise(p_values))
    assert 0 < p_values[-1] < 1e-13


def test_weights_scale_what_the_unseen_images_could_do() -> None:
    # 8 images instead of 2: twice as far.
    assert estimate(np.zeros((3, 50)), 4.0).half_width(0.95) == pytest.approx(
        2 * estimate(np.zeros((3, 50))).half_width(0.95)
    )


def test_one_seed_says_nothing_about_others() -> None:
    with pytest.raises(ValueError, match="1 seeds and 9 images; at least two of each"):
        estimate(np.ones((1, 9)))


def test_the_probability_of_winning_is_that_of_runs_not_of_means() -> None:
    first, second = np.array([0.9, 0.8, 0.8, 0.8, 0.7]), np.array([0.7, 0.81, 0.81, 0.81, 0.7])
    found = WinProbability.of(first, second, 0.95)
    assert first.mean() > second.mean()
    assert found.share == pytest.approx(1.5 / 5)  # One win, one tie.
    for wins in range(6):
        found = WinProbability.of(np.arange(5) < wins, np.full(5, 0.5), 0.95)
        exact = binomtest(wins, 5).proportion_ci(0.95)
        assert (found.share, found.low, found.high) == pytest.approx((wins / 5, exact.low, exact.high))
