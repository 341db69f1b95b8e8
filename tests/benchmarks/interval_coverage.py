"""How often intervals hold the truth and verdicts are wrong: `python tests/benchmarks/interval_coverage.py`.

Studies are made up whose truth is known, none of them as the estimates suppose: a run is right about an image where
the image's easiness, the training's skill and chance together are above zero, so that accuracies, effects and their
variances all depend on each other. The generators differ in what seeds and images do. For each of them, each number of
seeds S and of images N, a row of the table tells

- the share of studies whose interval for the difference of two equally good arms, and whose interval for the accuracy
  of one, holds the truth;
- the share of false verdicts, "better" or "equivalent", where the true difference is just δ;
- the share of studies of ten equally good arms that call any of their 45 pairs better;
- how often a difference of `POWER_DIFFERENCE` is called better, with the margin of the settings;
- how many images tell the two arms apart, in the mean. Where there are fewer than about ten, the answers are so coarse
  that no interval can hold the truth in just 95 of 100 studies.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import multiprocessing
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq
from scipy.special import ndtr

from pipeline.comparison.decisions import FEWEST_SEEDS, Outcome, claim, holm
from pipeline.comparison.estimates import estimate
from pipeline.comparison.settings import Statistics

CONFIDENCE = 0.95
ARMS = 10
JUST_DELTA = 0.02
"""True difference at which claims about δ of the same size are counted."""
POWER_DIFFERENCE = 0.03
SEEDS = (2, 3, 5, 10, 20)
IMAGES = (50, 100, 360, 1_000, 10_000)

Draw = Callable[[np.random.Generator, int], np.ndarray]


@dataclass(frozen=True)
class Generator:
    """How the runs of a made-up study come to their answers; all in standard deviations of chance.

    Attributes:
        skill: Skills of so many trainings of one arm.
        easiness: Easiness of so many images, for both arms.
        taste: Standard deviation of what an arm makes of an image beside that, in all its trainings.
        chance: Standard deviation of what a training makes of an image.
        common: Share of the variance of chance that arms have in common for each seed.
    """

    skill: Draw
    easiness: Draw
    taste: float = 0.0
    chance: float = 1.0
    common: float = 0.0

    def right(self, draws: np.random.Generator, seeds: int, images: int, bonuses: Sequence[float]) -> list[np.ndarray]:
        """Answers of arms with these bonuses, bool (S, N) each."""
        easiness = self.easiness(draws, images)
        shared = draws.standard_normal((seeds, images)) if self.common else np.zeros((1, 1))
        answers = []
        for bonus in bonuses:
            own = draws.standard_normal((seeds, images))
            chance = np.sqrt(self.common) * shared + np.sqrt(1 - self.common) * own
            taste = self.taste * draws.standard_normal(images)
            skill = self.skill(draws, seeds)[:, np.newaxis]
            answers.append(bonus + easiness + taste + skill + self.chance * chance > 0)
        return answers

    @functools.cache  # noqa: B019 (the generators live as long as the program)
    def accuracy(self, bonus: float) -> float:
        """Expected accuracy of an arm with a bonus, over 300,000 trainings and images."""
        draws = np.random.default_rng(0)
        many = 300_000
        sure = self.easiness(draws, many) + self.skill(draws, many)
        return float(ndtr((bonus + sure) / np.hypot(self.taste, self.chance)).mean())

    @functools.cache  # noqa: B019
    def handicap(self, difference: float) -> float:
        """Bonus, below zero, that makes an arm less accurate by so much than one without."""
        wanted = self.accuracy(0.0) - difference
        return float(brentq(lambda bonus: self.accuracy(bonus) - wanted, -5.0, 0.0, xtol=1e-4))


def _normal(mean: float, deviation: float) -> Draw:
    return lambda draws, count: mean + deviation * draws.standard_normal(count)


def _heavy(deviation: float) -> Draw:
    return lambda draws, count: deviation * draws.standard_t(3, count) / np.sqrt(3)


def _failing(deviation: float) -> Draw:
    """One training in ten learns next to nothing."""
    return lambda draws, count: deviation * draws.standard_normal(count) - 5.0 * (draws.random(count) < 0.1)


def _two_kinds(draws: np.random.Generator, count: int) -> np.ndarray:
    """Nine images of ten are easy, the tenth is hard."""
    return np.where(draws.random(count) < 0.9, 2.5, -1.0) + 0.3 * draws.standard_normal(count)


def _skewed(draws: np.random.Generator, count: int) -> np.ndarray:
    """Most trainings are alike, and a few are much worse."""
    return 0.2 * (1 - draws.exponential(size=count))


GENERATORS = {
    "seeds alike": Generator(_normal(0, 0.0), _normal(2, 1.5)),
    "normal seeds": Generator(_normal(0, 0.1), _normal(2, 1.5)),
    "large seeds": Generator(_normal(0, 0.4), _normal(2, 1.5)),
    "heavy tails": Generator(_heavy(0.2), _normal(2, 1.5)),
    "skewed seeds": Generator(_skewed, _normal(2, 1.5)),
    "failed seeds": Generator(_failing(0.1), _normal(2, 1.5)),
    "near ceiling": Generator(_normal(0, 0.1), _normal(4.5, 1.5)),
    "arms correlated": Generator(_normal(0, 0.05), _normal(2, 1.5), common=0.9),
    "taste in images": Generator(_normal(0, 0.02), _normal(2, 1.5), taste=1.0, chance=0.3),
    "two kinds of images": Generator(_normal(0, 0.1), _two_kinds),
}


@dataclass(frozen=True)
class Rates:
    """What came out; all are shares of studies, but `disagreeing`, a number of images."""

    difference: float
    accuracy: float
    false_at_delta: float
    false_in_family: float
    power: float
    disagreeing: float


def rates(name: str, seeds: int, images: int, studies: int, families: int) -> Rates:
    """Makes up studies with numbered draws, the same each time, and counts.

    Args:
        name: Of the generator.
        seeds: S.
        images: N.
        studies: How many pairs of arms.
        families: How many studies of `ARMS` arms; none with 0.
    """
    generator = GENERATORS[name]
    held = held_accuracy = false = power = 0
    disagreeing = 0.0
    verdicts = seeds >= FEWEST_SEEDS
    level = 1 - CONFIDENCE
    margin = Statistics().margin
    bonuses = [generator.handicap(JUST_DELTA), generator.handicap(POWER_DIFFERENCE), 0.0, 0.0]
    for number in range(studies):
        draws = np.random.default_rng((number, seeds, images))
        behind, far_behind, first, second = (
            answers.astype(np.int8) for answers in generator.right(draws, seeds, images, bonuses)
        )
        low, high = estimate(first - second).interval(CONFIDENCE)
        held += low <= 0 <= high
        low, high = estimate(first).interval(CONFIDENCE)
        held_accuracy += low <= generator.accuracy(0.0) <= high
        disagreeing += float(np.any(first != second, axis=0).sum())
        if verdicts:
            outcome, p_value = claim(estimate(first - behind), JUST_DELTA)
            false += p_value <= level
            outcome, p_value = claim(estimate(first - far_behind), margin)
            power += outcome is Outcome.A_BETTER and p_value <= level
    alarms = 0
    for number in range(families if verdicts else 0):
        draws = np.random.default_rng((number, seeds, images, ARMS))
        answers = generator.right(draws, seeds, images, [0.0] * ARMS)
        claims = [
            claim(estimate(one.astype(np.int8) - other.astype(np.int8)), margin)
            for one, other in itertools.combinations(answers, 2)
        ]
        corrected = holm([p_value for _, p_value in claims])
        alarms += any(
            outcome is not Outcome.EQUIVALENT and p_value <= level
            for (outcome, _), p_value in zip(claims, corrected, strict=True)
        )
    return Rates(
        held / studies,
        held_accuracy / studies,
        false / studies,
        alarms / families if families else 0.0,
        power / studies,
        disagreeing / studies,
    )


def _rates(arguments: tuple[str, int, int, int, int]) -> Rates:
    return rates(*arguments)


def main() -> None:
    """Counts and prints a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--studies", type=int, default=1000, help="a row (default: %(default)s)")
    parser.add_argument("--families", type=int, default=200, help="of ten arms a row (default: %(default)s)")
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--images", type=int, nargs="+", default=IMAGES)
    parser.add_argument("--generators", nargs="+", default=list(GENERATORS), choices=list(GENERATORS))
    parser.add_argument("--processes", type=int, default=2)
    arguments = parser.parse_args()
    rows = list(itertools.product(arguments.generators, arguments.seeds, arguments.images))
    todo = [(*row, arguments.studies, arguments.families) for row in rows]
    print(
        "| generator | S | N | difference held | accuracy held | false at δ | false of 10 arms | power | disagreeing |"
    )
    print("|---|---:|---:|---:|---:|---:|---:|---:|---:|")
    with multiprocessing.get_context("spawn").Pool(arguments.processes) as pool:
        for (name, seeds, images), found in zip(rows, pool.imap(_rates, todo), strict=True):
            cells = [f"{value:.3f}" for value in (found.difference, found.accuracy)]
            if seeds >= FEWEST_SEEDS:
                cells += [f"{value:.3f}" for value in (found.false_at_delta, found.false_in_family, found.power)]
            else:
                cells += ["-"] * 3
            print(f"| {name} | {seeds} | {images:,} | {' | '.join(cells)} | {found.disagreeing:.0f} |", flush=True)


if __name__ == "__main__":
    main()
