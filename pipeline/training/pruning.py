"""Which trainings of a search end early: those behind the median of the trainings before them.

The rule is that of Optuna's `MedianPruner`, after the median stopping rule of Golovin et al., "Google Vizier", KDD
2017. It is kept here because a sweeper hands its trials to the program as settings alone, often in another process, so
that no pruner of Optuna ever hears of an epoch; the records of all runs are within reach.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence

LEAST_OTHERS = 5
"""Trainings that have to be there before one is held against their median; as many as Optuna wants."""


def behind_the_median(accuracies: Sequence[float], others: Sequence[Sequence[float]]) -> str:
    """Why a training should end now; an empty text if it should not.

    Args:
        accuracies: Its validation accuracy after each epoch so far, at least one.
        others: The same of trainings before it that were not ended early.
    """
    epochs = len(accuracies)
    of_others = [other[epochs - 1] for other in others if len(other) >= epochs]
    if len(of_others) < LEAST_OTHERS:
        return ""
    best, median = max(accuracies), statistics.median(of_others)
    if best >= median:
        return ""
    return (
        f"after epoch {epochs}: its best validation accuracy, {best:.4f}, is below {median:.4f}, the median of the "
        f"{len(of_others)} runs before it at that epoch"
    )
