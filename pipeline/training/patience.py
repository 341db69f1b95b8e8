"""When a training has stopped getting better."""

from __future__ import annotations

from collections.abc import Sequence


def without_progress(accuracies: Sequence[float], patience: int) -> str:
    """Why a training should end now; an empty text if it should not.

    Args:
        accuracies: Its validation accuracy after each epoch so far, at least one.
        patience: So many epochs in a row may be no better than the best one before them.
    """
    best = max(accuracies)
    best_epoch = accuracies.index(best) + 1
    if len(accuracies) - best_epoch < patience:
        return ""
    return (
        f"after epoch {len(accuracies)}: {patience} epoch{'' if patience == 1 else 's'} without a validation accuracy "
        f"above {best:.4f}, that of epoch {best_epoch}"
    )
