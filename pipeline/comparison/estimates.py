"""What a study's accuracies and their differences say about the runs and images that it did not see.

A study is a table of right and wrong answers, seeds × test images, for each arm. Another study would draw other seeds
*and* other images, so both vary here: an interval over the seeds alone would be about these images, one over the images
alone about these trainings.

Model: x[s, i] = mean + seed effect + image effect + rest, with S seeds and N images, crossed, since all seeds answer
the same images. The variance of the mean of all cells is σ²(seed) / S + σ²(image) / N + σ²(rest) / (S·N).

- It is estimated from the mean squares of the two-way layout, which is (MS_seed + MS_image − MS_rest) / (S·N), with
  Satterthwaite's degrees of freedom (1946, Biometrics Bulletin 2(6)).
- The two-level bootstrap that resamples seeds and images (Owen 2007, Annals of Applied Statistics 1(2), "pigeonhole
  bootstrap") gives the shape of the distribution. Its spread is off: σ²(seed) comes out too small by (S − 1) / S, and
  σ²(rest) three times too large.
- So its deviations are scaled to the standard error above, and its quantiles are taken further out by Student's t, as
  Hesterberg (2015, The American Statistician 69(4)) does for small samples.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from scipy.stats import norm, t

MAX_SEEDS = 1000
"""More seeds than this nobody will train: "no number of seeds would settle it"."""
TAIL_RESAMPLES = 10
"""Resamples beyond a quantile that are needed to trust it."""
CHUNK = 512
"""Resamples that are taken at a time, to bound memory."""


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds and images, and how far it can be off.

    Attributes:
        mean: Over all cells.
        standard_error: Of the mean, over seeds and images.
        degrees_of_freedom: Of that standard error; infinite where it is 0.
        variance_seed: Estimate of σ²(seed), at least 0; the only part that more images do not make smaller.
        variance_image: Estimate of σ²(image), at least 0; the only part that more seeds do not make smaller.
        variance_rest: Estimate of σ²(rest).
        seeds: S.
        images: N.
        deviations: The bootstrap's deviations from the mean, scaled to `standard_error`; ascending, (resamples,).
    """

    mean: float
    standard_error: float
    degrees_of_freedom: float
    variance_seed: float
    variance_image: float
    variance_rest: float
    seeds: int
    images: int
    deviations: np.ndarray

    def interval(self, confidence: float) -> tuple[float, float]:
        """Two-sided interval that holds the expected mean with so much confidence."""
        tail = (1 - confidence) / 2
        return self.mean - self._quantile(1 - tail), self.mean - self._quantile(tail)

    def p_above(self, bound: float) -> float:
        """p value against "the expected mean is at most `bound`", one-sided."""
        return self._tail(self.mean - bound)

    def p_below(self, bound: float) -> float:
        """p value against "the expected mean is at least `bound`", one-sided."""
        return self._tail(bound - self.mean, mirrored=True)

    def probability_above_zero(self) -> float:
        """Share of the bootstrap distribution above zero, ties half; of a difference A − B, P(A > B)."""
        values = self.mean + self.deviations
        return float(np.mean(values > 0) + np.mean(values == 0) / 2)

    def _quantile(self, level: float) -> float:
        """Of the deviations, at the level that Student's t asks for instead of the normal distribution."""
        if self.standard_error == 0:
            return 0.0
        steps = t.ppf(level, self.degrees_of_freedom)
        if self._too_far_out(norm.cdf(steps)):
            return float(steps * self.standard_error)
        return float(np.quantile(self.deviations, norm.cdf(steps)))

    def _tail(self, distance: float, mirrored: bool = False) -> float:
        """Probability that chance alone carries the mean so far beyond a bound."""
        if self.standard_error == 0:
            return 0.0 if distance > 0 else 1.0
        deviations = -self.deviations[::-1] if mirrored else self.deviations
        beyond = 1 - np.searchsorted(deviations, distance, side="left") / len(deviations)
        if self._too_far_out(beyond):
            beyond = norm.sf(distance / self.standard_error)
        # The inverse of `_quantile`.
        return float(t.sf(norm.isf(beyond), self.degrees_of_freedom))

    def _too_far_out(self, level: float) -> bool:
        """Whether too few resamples lie beyond a level to tell the shape there; the normal one is taken instead."""
        return min(level, 1 - level) * len(self.deviations) < TAIL_RESAMPLES


class Bootstrap:
    """Draws of seeds and images, shared by all arms of a study so that their differences stay paired.

    Args:
        seeds: S.
        images: N.
        resamples: How many.
        seed: Of the draws.
    """

    def __init__(self, seeds: int, images: int, resamples: int, seed: int = 0) -> None:
        self._generator_seed = seed
        self.seeds, self.images, self.resamples = seeds, images, resamples

    def means(self, tables: Sequence[np.ndarray]) -> np.ndarray:
        """Mean of each table (S, N) in each resample, (tables, resamples)."""
        generator = np.random.default_rng(self._generator_seed)
        stacked = np.concatenate([np.asarray(table, np.float32) for table in tables])  # (tables · S, N)
        means = np.empty((len(tables), self.resamples))
        for start in range(0, self.resamples, CHUNK):
            size = min(CHUNK, self.resamples - start)
            of_seeds = _weights(generator, size, self.seeds)
            of_images = _weights(generator, size, self.images)
            by_seed = (of_images @ stacked.T).reshape(size, len(tables), self.seeds)
            means[:, start : start + size] = np.einsum("rts,rs->tr", by_seed, of_seeds)
        return means


def _weights(generator: np.random.Generator, resamples: int, count: int) -> np.ndarray:
    """How often each of `count` things is drawn in `count` draws with replacement, over `count`; (resamples, count)."""
    drawn = generator.integers(0, count, (resamples, count)) + count * np.arange(resamples)[:, np.newaxis]
    times = np.bincount(drawn.ravel(), minlength=resamples * count).reshape(resamples, count)
    return (times / count).astype(np.float32)


def estimate(table: np.ndarray, resampled: np.ndarray) -> Estimate:
    """Estimates the expected mean behind a table.

    Args:
        table: (S, N) numbers, S ≥ 2 seeds and N ≥ 2 images: right (1) or wrong (0), or differences of these.
        resampled: Its means in the bootstrap, (resamples,).

    Raises:
        ValueError: Fewer than two seeds or images, which say nothing about others.
    """
    seeds, images = table.shape
    if seeds < 2 or images < 2:
        raise ValueError(f"{seeds} seeds and {images} images; at least two of each are needed")
    table = table.astype(np.float64)
    mean = table.mean()
    by_seed, by_image = table.mean(axis=1) - mean, table.mean(axis=0) - mean
    df_seed, df_image = seeds - 1, images - 1
    ss_seed, ss_image = images * np.sum(by_seed**2), seeds * np.sum(by_image**2)
    ms_seed, ms_image = ss_seed / df_seed, ss_image / df_image
    ms_rest = max(np.sum((table - mean) ** 2) - ss_seed - ss_image, 0.0) / (df_seed * df_image)
    cells = seeds * images
    # A variance cannot be negative: an effect whose mean square is below the rest's counts as none.
    seed_part, image_part = max(ms_seed - ms_rest, 0.0), max(ms_image - ms_rest, 0.0)
    variance = (seed_part + image_part + ms_rest) / cells
    parts = [(ms_seed, df_seed, seed_part > 0), (ms_image, df_image, image_part > 0)]
    signs = -1 if seed_part > 0 and image_part > 0 else int(seed_part == image_part == 0)
    squares = sum((ms / cells) ** 2 / df for ms, df, counts in parts if counts)
    squares += (signs * ms_rest / cells) ** 2 / (df_seed * df_image)
    standard_error = math.sqrt(variance)
    deviations = np.sort(resampled - resampled.mean())
    spread = deviations.std()
    return Estimate(
        mean=float(mean),
        standard_error=standard_error,
        degrees_of_freedom=float(variance**2 / squares) if squares > 0 else math.inf,
        variance_seed=seed_part / images,
        variance_image=image_part / seeds,
        variance_rest=float(ms_rest),
        seeds=seeds,
        images=images,
        deviations=deviations * (standard_error / spread) if spread > 0 else deviations,
    )


class Outcome(StrEnum):
    """What a study says about two arms A and B, given the smallest difference of interest δ."""

    A_BETTER = "A better"
    B_BETTER = "B better"
    EQUIVALENT = "equivalent"
    UNDECIDED = "undecided"


def claim(difference: Estimate, margin: float) -> tuple[Outcome, float]:
    """What the difference A − B comes closest to showing, and the p value of that claim.

    The claims are: A is better by more than δ, B is, or neither (two one-sided tests: Schuirmann 1987, Journal of
    Pharmacokinetics and Biopharmaceutics 15(6)). They exclude each other. The first two count as one two-sided test.

    Args:
        difference: Of the accuracies.
        margin: δ > 0.
    """
    equivalent = max(difference.p_above(-margin), difference.p_below(margin))
    better = {
        Outcome.A_BETTER: min(1.0, 2 * difference.p_above(margin)),
        Outcome.B_BETTER: min(1.0, 2 * difference.p_below(-margin)),
        Outcome.EQUIVALENT: equivalent,
    }
    outcome = min(better, key=lambda name: better[name])
    return outcome, better[outcome]


def holm(p_values: Sequence[float]) -> list[float]:
    """p values after Holm's correction (1979, Scandinavian Journal of Statistics 6(2)), in the order given."""
    order = np.argsort(p_values, kind="stable")
    adjusted = np.empty(len(p_values))
    largest = 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted.tolist()


def seeds_to_settle(difference: Estimate, margin: float, level: float) -> int | None:
    """How many seeds a study would need for a verdict, if mean and variances stay as they are; None if no number would.

    Args:
        difference: Of the accuracies.
        margin: δ.
        level: p value that settles it, after any correction.
    """

    # The nearest claim needs the mean to be this far from the bound it has to stay clear of.
    beyond = abs(difference.mean) - margin
    distance, tail = (beyond, level / 2) if beyond > 0 else (-beyond, level)
    for seeds in range(difference.seeds + 1, MAX_SEEDS + 1):
        variance = (
            difference.variance_seed / seeds
            + difference.variance_image / difference.images
            + difference.variance_rest / (seeds * difference.images)
        )
        # Fewer degrees of freedom than Satterthwaite's, so rather a seed too many.
        if distance >= t.isf(tail, seeds - 1) * math.sqrt(variance):
            return seeds
    return None
