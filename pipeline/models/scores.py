"""What the logits of labelled images are worth: accuracy, and what it does not show."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import log_softmax
from sklearn.metrics import recall_score

from pipeline.common.errors import UserError

CALIBRATION_BINS = 15
TOP = 5
"""Top-5 accuracy is of more classes than these."""


@dataclass(frozen=True)
class Scores:
    """Scores of logits (N, K) against labels (N,).

    Attributes:
        accuracy: Top-1.
        cross_entropy: Mean, in nats.
        top_5_accuracy: None with five classes or fewer, of which it would say nothing.
        calibration_error: See `expected_calibration_error`.
        recalls: By class, (K,); NaN for a class without an image.
        images: By class, (K,).
    """

    accuracy: float
    cross_entropy: float
    top_5_accuracy: float | None
    calibration_error: float
    recalls: np.ndarray
    images: np.ndarray

    @property
    def balanced_accuracy(self) -> float:
        """Mean recall of the classes that have images: a class counts the same however many images it has."""
        return float(np.nanmean(self.recalls))

    @property
    def hardest(self) -> list[int]:
        """Labels of the classes that have images, that with the lowest recall first."""
        by_recall = np.argsort(self.recalls, kind="stable")  # NaN comes last.
        return [int(label) for label in by_recall if self.images[label]]


def score(logits: np.ndarray, labels: np.ndarray) -> Scores:
    """All scores of logits (N, K) against labels (N,).

    Raises:
        UserError: Some logits are no finite numbers: what is largest among such cannot be told.
    """
    images, classes = logits.shape
    if broken := images - np.isfinite(logits).all(axis=1).sum():
        raise UserError(
            f"The logits of {broken:,} of {images:,} images are no finite numbers. Use a smaller "
            "training.learning_rate or training.precision=float32."
        )
    return Scores(
        accuracy=accuracy(logits, labels),
        cross_entropy=cross_entropy(logits, labels),
        top_5_accuracy=top_k_accuracy(logits, labels, TOP) if classes > TOP else None,
        calibration_error=expected_calibration_error(logits, labels),
        recalls=recall_by_class(logits, labels),
        images=np.bincount(labels, minlength=classes),
    )


def accuracy(logits: np.ndarray, labels: np.ndarray) -> float:
    """Top-1 accuracy of logits (N, K) against labels (N,)."""
    return float(np.mean(logits.argmax(axis=1) == labels))


def cross_entropy(logits: np.ndarray, labels: np.ndarray) -> float:
    """Mean cross-entropy in nats of logits (N, K) against labels (N,)."""
    return float(-np.mean(_log_probabilities(logits)[np.arange(len(labels)), labels]))


def recall_by_class(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Share of each class's images that are classified as it, (K,); NaN for a class without an image."""
    every = np.arange(logits.shape[1])
    return np.asarray(recall_score(labels, logits.argmax(axis=1), labels=every, average=None, zero_division=np.nan))


def top_k_accuracy(logits: np.ndarray, labels: np.ndarray, k: int) -> float:
    """Share of images whose class is among the k with the largest logits; of equal logits, the first come first.

    Counting the larger logits takes a hundredth of the time of scikit-learn's function, which sorts all classes.
    """
    own = logits[np.arange(len(labels)), labels][:, np.newaxis]
    earlier = np.arange(logits.shape[1]) < labels[:, np.newaxis]
    before = np.sum((logits > own) | ((logits == own) & earlier), axis=1)
    return float(np.mean(before < k))


def expected_calibration_error(logits: np.ndarray, labels: np.ndarray) -> float:
    """How far the probability of the predicted class is from the share of predictions that are right.

    Σₘ |Bₘ| / N · |accuracy(Bₘ) − confidence(Bₘ)| over `CALIBRATION_BINS` bins of equal width of the probability,
    ((m − 1) / M, m / M] (Guo et al. 2017, On Calibration of Modern Neural Networks, equation 3).
    """
    return calibration_error(confidences(logits), logits.argmax(axis=1) == labels)


def calibration_error(confidence: np.ndarray, right: np.ndarray) -> float:
    """The same from the probabilities of the predicted classes, (N,), and whether each is right, bool (N,)."""
    bins = np.ceil(confidence * CALIBRATION_BINS).astype(int)
    return float(np.abs(np.bincount(bins, weights=right - confidence)).sum() / len(right))


def confidences(logits: np.ndarray) -> np.ndarray:
    """Probability of the predicted class, (N,), from logits (N, K)."""
    return np.asarray(np.exp(_log_probabilities(logits).max(axis=1)))


def _log_probabilities(logits: np.ndarray) -> np.ndarray:
    return log_softmax(logits.astype(np.float64), axis=1)
