"""What a study's accuracies and their differences say about the runs and images that it did not see.

A study is a table of right and wrong answers, seeds × test images, for each arm. Another study would draw other seeds
*and* other images, so both vary here: an interval over the seeds alone would be about these images, one over the images
alone about these trainings.

Model: x[s, i] = mean + seed effect + image effect + rest, with S seeds and N images, crossed, since all seeds answer
the same images. The variance of the mean of all cells is σ²(seed) / S + σ²(image) / N + σ²(rest) / (S·N). The mean
squares of the two-way layout estimate it in two parts:

- MS_seed / (S·N), for seeds and rest, from as few values as there are seeds: it takes Student's t with S − 1 degrees of
  freedom, whatever its size. Three seeds that happen to agree are still three. It is the t test over the seeds' means.
  MS_rest / (S·N) would be left if seeds made no difference; with so many cells it is known, so the normal distribution
  gives its share. Seeds can only add to that, so the larger of the two counts.
- (MS_image − MS_rest) / (S·N), for the images. Its degrees of freedom are about N, so it takes the normal distribution.
  A few disagreements show too little of what other images would do, and none would show certainty. So two images are
  added to it, one for each sign, as Agresti and Min do for paired answers (2005, Statistics in Medicine 24(5)): a
  variance of 2 / N², less what the rest accounts for already. Without a disagreement, the interval then reaches
  2.8 / N to both sides.

Half the width of an interval is the root of the sum of both squares, each with its own quantile. Satterthwaite's single
degree of freedom would be estimated from the same few seeds, and is too large when their variance is too small.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from scipy.optimize import brentq
from scipy.special import ndtr, ndtri, stdtrit
from scipy.stats import beta

UNSEEN_IMAGES = 2.0
"""Images that are added to the variance, one on which A alone is right and one on which B alone is."""
FARTHEST = 20.0
"""Standard deviations that no p value goes beyond: 3e-89. From 27 on, SciPy's quantiles of Student's t are wrong."""


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds and images, and how far it can be off.

    Attributes:
        mean: Over all cells.
        seeds: S.
        images: N.
        seed_square: Mean square of the seeds, MS_seed.
        image_square: Of the images, MS_image.
        rest_square: Of the rest, MS_rest.
        unseen_images: How many of difference 1 or −1 are added for the images that were not seen.
    """

    mean: float
    seeds: int
    images: int
    seed_square: float
    image_square: float
    rest_square: float
    unseen_images: float = UNSEEN_IMAGES

    @property
    def standard_error(self) -> float:
        """Of the mean, over seeds and images."""
        return math.hypot(*self._parts(1.0, 1.0, self.seeds))

    def interval(self, confidence: float) -> tuple[float, float]:
        """Two-sided interval that holds the expected mean with so much confidence."""
        half = self.half_width(confidence)
        return self.mean - half, self.mean + half

    def half_width(self, confidence: float, seeds: int | None = None) -> float:
        """How far the interval reaches to each side; with another number of seeds, if the mean squares stay."""
        return self._reach(-ndtri((1 - confidence) / 2), seeds or self.seeds)

    def p_above(self, bound: float) -> float:
        """p value against "the expected mean is at most `bound`", one-sided: the tail beyond the widest interval that
        leaves the bound out."""
        distance = abs(self.mean - bound)
        if self._reach(FARTHEST, self.seeds) <= distance:
            steps = FARTHEST
        else:
            steps = brentq(lambda steps: self._reach(steps, self.seeds) - distance, 0.0, FARTHEST)
        return float(ndtr(-steps if self.mean >= bound else steps))

    def p_below(self, bound: float) -> float:
        """p value against "the expected mean is at least `bound`", one-sided."""
        return replace(self, mean=-self.mean).p_above(-bound)

    def _reach(self, steps: float, seeds: int) -> float:
        """Distance from the mean that is as improbable as `steps` standard deviations of a normal variable."""
        return math.hypot(*self._parts(-float(stdtrit(seeds - 1, ndtr(-steps))), steps, seeds))

    def _parts(self, of_seeds: float, of_many: float, seeds: int) -> tuple[float, float]:
        """Contributions of seeds and of images, given how many standard deviations either counts."""
        cells = seeds * self.images
        of_seeds = max(of_seeds * math.sqrt(self.seed_square / cells), of_many * math.sqrt(self.rest_square / cells))
        # σ²(image) is what it is, however many seeds there are.
        image = max(self.image_square - self.rest_square, 0.0) / (self.seeds * self.images)
        unseen = max(self.unseen_images / self.images**2 - self.rest_square / cells, 0.0)
        return of_seeds, of_many * math.sqrt(image + unseen)


def estimate(table: np.ndarray, squared_weights: float = 1.0) -> Estimate:
    """Estimates the expected mean behind a table.

    Args:
        table: (S, N) numbers, S ≥ 2 seeds and N ≥ 2 images: right (1) or wrong (0), differences of these, or a weighted
            sum of such differences.
        squared_weights: Sum of the squares of these weights.

    Raises:
        ValueError: Fewer than two seeds or images, which say nothing about others.
    """
    seeds, images = table.shape
    if seeds < 2 or images < 2:
        raise ValueError(f"{seeds} seeds and {images} images; at least two of each are needed")
    table = table.astype(np.float64)
    mean = table.mean()
    of_seeds = images * np.sum((table.mean(axis=1) - mean) ** 2)
    of_images = seeds * np.sum((table.mean(axis=0) - mean) ** 2)
    of_rest = max(np.sum((table - mean) ** 2) - of_seeds - of_images, 0.0)
    return Estimate(
        mean=float(mean),
        seeds=seeds,
        images=images,
        seed_square=float(of_seeds / (seeds - 1)),
        image_square=float(of_images / (images - 1)),
        rest_square=float(of_rest / ((seeds - 1) * (images - 1))),
        unseen_images=UNSEEN_IMAGES * squared_weights,
    )


@dataclass(frozen=True)
class WinProbability:
    """Probability that a run of A is more accurate than the run of B with its seed, on these test images.

    Attributes:
        share: Of the seeds in which it is; a tie counts half.
        low: Lower bound of the interval of Clopper and Pearson (1934, Biometrika 26(4)), which supposes nothing about
            how accuracies are distributed.
        high: Its upper bound.
    """

    share: float
    low: float
    high: float

    @classmethod
    def of(cls, first: np.ndarray, second: np.ndarray, confidence: float) -> WinProbability:
        """From the accuracies of both arms by seed, (S,)."""
        seeds = len(first)
        wins = float(np.sum(first > second) + np.sum(first == second) / 2)
        tail = (1 - confidence) / 2
        return cls(
            share=wins / seeds,
            low=float(beta.ppf(tail, wins, seeds - wins + 1)) if wins > 0 else 0.0,
            high=float(beta.ppf(1 - tail, wins + 1, seeds - wins)) if wins < seeds else 1.0,
        )
