"""Which way to run a probed model is the most accurate below its training size and above it, and how sure that is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import ttest_1samp

from pipeline.common.condition import Mode
from pipeline.common.size import Size
from pipeline.other_sizes.probe import CONFIDENCE, ProbedSize


@dataclass(frozen=True)
class Lead:
    """By how much the best way is ahead of the next, in the mean of some sizes.

    Attributes:
        way: The next best; `AS_IS` for the model as it is.
        accuracy: Its accuracy.
        mean: Best minus next.
        low: Lower end of the 95 % interval of that over the images, each with all its sizes.
        high: Upper end.
    """

    way: str
    accuracy: float
    mean: float
    low: float
    high: float

    @property
    def is_certain(self) -> bool:
        """Whether the interval leaves 0 out."""
        return self.low > 0


@dataclass(frozen=True)
class Best:
    """The most accurate way on one side of the training size.

    Attributes:
        mode: How the images were made.
        sizes: Of that side.
        way: The best of those that take all of these sizes; `AS_IS` for the model as it is.
        accuracy: Mean over the sizes.
        lead: Ahead of the next; None where no other takes all of these sizes.
    """

    mode: Mode
    sizes: tuple[Size, ...]
    way: str
    accuracy: float
    lead: Lead | None


def best_ways(probed: Sequence[ProbedSize], native: Size) -> list[Best]:
    """The best way by mode, below and above the training size; of equals, the earlier one."""
    found = []
    for side in (
        [result for result in probed if result.size < native],
        [result for result in probed if result.size > native],
    ):
        names = [way for way in (side[0].scores if side else ()) if all(way in result.scores for result in side)]
        for mode in Mode if names else ():
            # By image, the share of the sizes at which it is classified right.
            shares = {way: np.mean([result.scores[way][mode].right for result in side], axis=0) for way in names}
            first, *others = sorted(names, key=lambda way: -shares[way].mean())
            lead = _lead(shares[first], shares[others[0]], others[0]) if others else None
            sizes = tuple(result.size for result in side)
            found.append(Best(mode, sizes, first, float(shares[first].mean()), lead))
    return found


def _lead(first: np.ndarray, second: np.ndarray, way: str) -> Lead:
    """Student's interval of the mean difference, paired by image."""
    ahead = first - second
    mean = float(ahead.mean())
    low = high = mean
    if len(ahead) < 2:
        low, high = -1.0, 1.0  # One image tells nothing.
    elif np.ptp(ahead) > 0:
        interval = ttest_1samp(ahead, 0).confidence_interval(CONFIDENCE)
        low, high = float(interval.low), float(interval.high)
    return Lead(way, float(second.mean()), mean, low, high)
