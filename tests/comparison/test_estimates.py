"""The statistics: against arithmetic by hand, and against simulated studies whose truth is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import norm, t

from pipeline.comparison.estimates import Bootstrap, Estimate, Outcome, claim, estimate, holm, seeds_to_settle

STUDIES = 600
RESAMPLES = 1500
MARGIN = 0.01


def _difference(right_a: np.ndarray, right_b: np.ndarray, seed: int = 0, resamples: int = RESAMPLES) -> Estimate:
    seeds, images = right_a.shape
    means = Bootstrap(seeds, images, resamples, seed).means([right_a, right_b])
    return estimate(right_a.astype(float) - right_b, means[0] - means[1])


def test_variances_are_those_of_the_two_way_layout() -> None:
    table = np.array([[1.0, 0.0, 1.0], [1.0, 1.0, 0.0]])
    # Mean 4/6. Rows 2/3 and 2/3: SS 0. Columns 1, 1/2, 1/2: SS 2·(1/9 + 1/36 + 1/36) = 1/3. All: 6·(2/9) = 4/3.
    # So MS 0/1, (1/3)/2 = 1/6 and (4/3 − 1/3)/2 = 1/2: no effect is above the rest, and the variance is (1/2)/6.
    found = estimate(table, np.array([0.5, 0.7, 0.9]))
    assert found.mean == pytest.approx(4 / 6)
    assert (found.variance_seed, found.variance_image) == (0, 0)
    assert found.variance_rest == pytest.approx(1 / 2)
    assert found.standard_error == pytest.approx(math.sqrt(1 / 12))
    assert found.degrees_of_freedom == pytest.approx(2)
    # The bootstrap's deviations −0.2, 0, 0.2 have a standard deviation of 0.2·√(2/3).
    assert found.deviations == pytest.approx(np.array([-1, 0, 1]) * math.sqrt(1 / 12) / math.sqrt(2 / 3))


def test_a_seed_effect_is_told_from_the_rest() -> None:
    table = np.array([[0.0, 0.0, 1.0, 0.0], [1.0, 1.0, 0.0, 1.0]])
    # Rows 1/4 and 3/4: SS 4·2·(1/4)² = 1/2 = MS. Columns 1/2: SS 0. All 8·(1/4) = 2, rest (2 − 1/2 − 0)/3 = 1/2.
    assert estimate(table, np.zeros(2)).variance_seed == 0
    table[0, 2] = 0.0
    # Rows 0 and 3/4: SS 4·2·(3/8)² = 9/8. Columns 1/2, 1/2, 0, 1/2: mean 3/8, SS 2·(3·(1/8)² + (3/8)²) = 3/8.
    # All: 3 − 8·(3/8)² = 15/8, rest (15/8 − 9/8 − 3/8)/3 = 1/8. MS image (3/8)/3 = 1/8.
    found = estimate(table, np.zeros(2))
    assert found.variance_seed == pytest.approx((9 / 8 - 1 / 8) / 4)
    assert found.variance_image == pytest.approx(0)
    assert found.standard_error == pytest.approx(math.sqrt((9 / 8) / 8))
    assert found.degrees_of_freedom == pytest.approx(1)


def test_arms_that_always_agree_are_equivalent_for_sure() -> None:
    right = np.random.default_rng(0).random((3, 50)) < 0.9
    found = _difference(right, right)
    assert (found.mean, found.standard_error, found.interval(0.95)) == (0, 0, (0, 0))
    assert claim(found, MARGIN) == (Outcome.EQUIVALENT, 0)
    assert found.probability_above_zero() == 0.5


def test_one_seed_says_nothing_about_others() -> None:
    with pytest.raises(ValueError, match="1 seeds and 9 images; at least two of each"):
        estimate(np.ones((1, 9)), np.ones(3))


def test_the_bootstrap_resamples_seeds_and_images_alike_for_all_arms() -> None:
    generator = np.random.default_rng(0)
    first, second = generator.random((4, 30)), generator.random((4, 30))
    means = Bootstrap(4, 30, 4000).means([first, second, first + second])
    assert means[0] + means[1] == pytest.approx(means[2], abs=1e-6)
    assert means[0].mean() == pytest.approx(first.mean(), abs=4 * means[0].std() / math.sqrt(4000))
    # Seeds alone: images that are all alike leave the variance of 4 draws from 4 numbers, their variance over 4.
    of_seeds = np.repeat(np.array([[0.0], [1.0], [2.0], [5.0]]), 30, axis=1)
    (means,) = Bootstrap(4, 30, 20_000).means([of_seeds])
    assert means.var() == pytest.approx(np.var([0, 1, 2, 5]) / 4, rel=0.05)
    # Images alone.
    (means,) = Bootstrap(4, 30, 20_000).means([np.repeat(first[:1], 4, axis=0)])
    assert means.var() == pytest.approx(first[0].var() / 30, rel=0.05)


def test_intervals_and_p_values_belong_together() -> None:
    """The bound of a 95 % interval is the value that the data reject at 2.5 % on one side."""
    found = _difference(*_study(np.random.default_rng(3), seeds=6, images=400, effect=0.2), resamples=20_000)
    low, high = found.interval(0.95)
    assert found.p_above(low) == pytest.approx(0.025, abs=0.001)
    assert found.p_below(high) == pytest.approx(0.025, abs=0.001)
    # Far out no resample tells any more; Student's t does.
    far = found.mean - 8 * found.standard_error
    assert found.p_above(far) == pytest.approx(t.sf(norm.isf(norm.sf(8)), found.degrees_of_freedom))


def test_holm_multiplies_the_smallest_by_the_number_of_claims() -> None:
    # Sorted: 0.01·3, 0.03·2, 0.04·1, and none below the one before it.
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == pytest.approx([1.0, 1.0])
    assert holm([]) == []


def _study(
    generator: np.random.Generator, seeds: int, images: int, effect: float, seed_sd: float = 0.1
) -> tuple[np.ndarray, np.ndarray]:
    """Right answers of two arms: an image is got right if it is easy enough for this arm's training."""
    easiness = 2 + 1.5 * generator.standard_normal(images)
    arms = []
    for bonus in (effect, 0.0):
        skill = bonus + seed_sd * generator.standard_normal((seeds, 1))
        arms.append(easiness + skill + generator.standard_normal((seeds, images)) > 0)
    return arms[0], arms[1]


def _truth(effect: float, seed_sd: float = 0.1) -> float:
    """Difference of the arms' expected accuracies: the sum of three normal variables is normal."""
    spread = math.sqrt(1.5**2 + seed_sd**2 + 1)
    return float(norm.cdf((2 + effect) / spread) - norm.cdf(2 / spread))


@pytest.mark.parametrize(
    ("seeds", "images", "effect", "seed_sd"),
    [
        pytest.param(5, 300, 0.15, 0.1, marks=pytest.mark.slow),
        pytest.param(5, 300, 0.0, 0.1, marks=pytest.mark.slow),
        pytest.param(5, 300, 0.15, 0.3, marks=pytest.mark.slow),  # Seeds that differ much.
        pytest.param(3, 300, 0.15, 0.1, marks=pytest.mark.slow),  # Few seeds.
        pytest.param(10, 300, 0.15, 0.1, marks=pytest.mark.slow),
    ],
)
def test_95_percent_intervals_cover_the_truth(seeds: int, images: int, effect: float, seed_sd: float) -> None:
    covered = better = 0
    truth = _truth(effect, seed_sd)
    for number in range(STUDIES):
        found = _difference(*_study(np.random.default_rng(number), seeds, images, effect, seed_sd), seed=number)
        low, high = found.interval(0.95)
        covered += low <= truth <= high
        outcome, p_value = claim(found, MARGIN)
        better += outcome in (Outcome.A_BETTER, Outcome.B_BETTER) and p_value < 0.05
    # If 95 % are covered in truth, 93 to 97 % of 600 studies are, 97 times in 100: the standard deviation is
    # √(0.95·0.05/600) = 0.9 %. The generators' seeds are fixed, so the test always sees the same studies.
    assert 0.93 <= covered / STUDIES <= 0.97
    if effect == 0.0:
        assert better / STUDIES <= 0.05


@pytest.mark.slow
def test_a_difference_of_just_delta_is_rarely_called_better() -> None:
    """The worst case of "A better by more than δ" is a difference of δ itself."""
    effect, better = 0.1, 0
    for number in range(STUDIES):
        found = _difference(*_study(np.random.default_rng(number), 5, 300, effect), seed=number)
        outcome, p_value = claim(found, _truth(effect))
        better += outcome is Outcome.A_BETTER and p_value < 0.05
    assert better / STUDIES <= 0.05


@pytest.mark.slow
def test_claims_are_made_when_they_are_true_and_the_data_suffice() -> None:
    equivalent = better = 0
    for number in range(50):
        alike = _difference(*_study(np.random.default_rng(number), 10, 4000, 0.0, 0.02), seed=number)
        equivalent += claim(alike, 0.02)[0] is Outcome.EQUIVALENT and claim(alike, 0.02)[1] < 0.05
        apart = _difference(*_study(np.random.default_rng(number), 10, 4000, 0.6, 0.02), seed=number)
        better += claim(apart, MARGIN)[0] is Outcome.A_BETTER and claim(apart, MARGIN)[1] < 0.05
    assert equivalent >= 48
    assert better >= 48


def test_more_seeds_settle_what_seeds_can_settle() -> None:
    def difference(mean: float, seed_variance: float, image_variance: float) -> Estimate:
        return Estimate(mean, 0.01, 4, seed_variance, image_variance, 0.0, 5, 10_000, np.zeros(1))

    # The mean is 0.02 − 0.01 beyond δ. With n seeds the standard error is 0.02/√n: 0.01 ≥ t(97.5 %, n − 1)·0.02/√n
    # for the first time at n = 18: 2.110·0.02/√18 = 0.00995; at 17, 2.120·0.02/√17 = 0.01028.
    assert seeds_to_settle(difference(0.02, 0.02**2, 0.0), MARGIN, 0.05) == 18
    # Images alone give a standard error of 1/√10,000 = 0.01, whatever the seeds.
    assert seeds_to_settle(difference(0.02, 0.02**2, 1.0), MARGIN, 0.05) is None
