"""When a training has stopped getting better."""

from __future__ import annotations

from collections.abc import Sequence


def without_progress(accuracies: Sequence[float], patience: int, before: int = 0) -> str:
    """Why a training should end now; an empty text if it should not.

    Args:
        accuracies: Its validation accuracy after each epoch so far, at least one.
        patience: So many epochs in a row may be no better than the best one before them.
        before: Epochs of an earlier stage, which count in the text alone.
    """
    best = max(accuracies)
    best_epoch, epoch = accuracies.index(best) + 1, len(accuracies)
    if epoch - best_epoch < patience:
        return ""
    return (
        f"after epoch {before + epoch}: {patience} epoch{'' if patience == 1 else 's'} without a validation accuracy "
        f"above {best:.4f}, that of epoch {before + best_epoch}"
    )
