"""How sure a comparison has to be."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pipeline.common.settings import Settings


@dataclass
class Statistics(Settings):
    """How sure a comparison has to be.

    Attributes:
        margin: Smallest difference of interest δ, in accuracy: half a point, about what separates neighbours in tables
            of published results. Arms that differ by less are as good as each other.
        confidence: Of intervals, and of the verdicts of a study together.
        resamples: Of the two-level bootstrap.
    """

    margin: float = 0.005
    confidence: float = 0.95
    resamples: int = 4000

    group: ClassVar[str] = "statistics"

    def __post_init__(self) -> None:
        self.require(
            "margin",
            0 < self.margin < 1,
            "must lie in (0, 1): it is a difference of accuracies",
            "Use for example statistics.margin=0.005 for half a point.",
        )
        self.require("confidence", 0.5 <= self.confidence < 1, "must lie in [0.5, 1)", example=0.95)
        self.require_at_least("resamples", 100, 4000)
