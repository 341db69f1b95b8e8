"""How sure a comparison has to be, and what a study's question is about."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar

from pipeline.common.settings import Settings


@dataclass
class Statistics(Settings):
    """How sure a comparison has to be.

    Attributes:
        margin: Smallest difference of interest δ, in accuracy: half a point, about what separates neighbours in tables
            of published results. Arms that differ by less are as good as each other.
        confidence: Of intervals, and of the verdicts of a family of comparisons together.
    """

    margin: float = 0.005
    confidence: float = 0.95

    group: ClassVar[str] = "statistics"

    def __post_init__(self) -> None:
        self.require(
            "margin",
            0 < self.margin < 1,
            "must lie in (0, 1): it is a difference of accuracies",
            "Use for example statistics.margin=0.005 for half a point.",
        )
        self.require("confidence", 0.5 <= self.confidence < 1, "must lie in [0.5, 1)", example=0.95)


class About(StrEnum):
    """What can answer a study's question."""

    training_size = "training_size"
    """The arms against each other on test images of the training size."""
    other_sizes = "other_sizes"
    """The arms against each other on images of other sizes."""
    ways = "ways"
    """The ways to run one trained model at other sizes, against each other."""
    interaction = "interaction"
    """Whether the lead of one arm over another depends on a swept setting."""
    trend = "trend"
    """How much the lead changes each time that a swept number doubles."""


@dataclass
class Asks(Settings):
    """What a study's question is about: the report answers that first.

    Attributes:
        about: `training_size`, `other_sizes`, `ways`, `interaction` or `trend`; null for the training size, or for what
            the compared runs have recorded.
        over: The swept setting of an interaction or a trend, for example `dataset.image_size`.
        primary: Pairs of names of arms, [[A, B]], that are the study's main comparisons. The others are corrected apart
            from them and cost them nothing. null for all pairs.
    """

    about: About | None = None
    over: str | None = None
    primary: list[list[str]] | None = None

    group: ClassVar[str] = "asks"

    def __post_init__(self) -> None:
        swept = self.about in (About.interaction, About.trend)
        self.require(
            "over",
            (self.over is not None) == swept,
            f"asks.about={self.about.value if self.about else 'null'} "
            + ("needs the name of the setting that is swept" if swept else "is over no setting"),
            "Use for example asks.over=dataset.image_size." if swept else "Leave it out.",
        )
        self.require(
            "primary",
            self.primary is None or all(len(pair) == 2 and pair[0] != pair[1] for pair in self.primary),
            "must be null or a list of pairs of two arms",
            example="[[flatten_dense,global_average_pool]]",
        )

    def is_primary(self, first: str, second: str) -> bool:
        """Whether a comparison of two arms is one of the main ones."""
        return self.primary is None or any({first, second} == set(pair) for pair in self.primary)
