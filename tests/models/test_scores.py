"""What logits are worth, by arithmetic and by scikit-learn."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, top_k_accuracy_score

from pipeline.common.errors import UserError
from pipeline.models.scores import (
    accuracy,
    cross_entropy,
    expected_calibration_error,
    recall_by_class,
    score,
    top_k_accuracy,
)


def _logits(*probabilities: list[float]) -> np.ndarray:
    return np.log(np.array(probabilities)).astype(np.float32)


def test_a_class_counts_the_same_however_rare_it_is() -> None:
    # Nine of class 0 and one of class 1, all taken for 0; class 2 has no image.
    logits, labels = _logits(*[[0.7, 0.2, 0.1]] * 10), np.array([0] * 9 + [1])
    assert accuracy(logits, labels) == 9 / 10
    assert recall_by_class(logits, labels) == pytest.approx([1, 0, math.nan], nan_ok=True)
    assert score(logits, labels).balanced_accuracy == (1 + 0) / 2


def test_logits_that_are_no_finite_numbers_have_no_scores() -> None:
    logits = _logits(*[[0.7, 0.3]] * 1200)
    logits[[3, 1199], 0] = np.nan, np.inf
    with pytest.raises(UserError, match=r"The logits of 2 of 1,200 images are no finite numbers\. Use a smaller"):
        score(logits, np.zeros(1200, int))


def test_top_k_counts_the_classes_before_the_true_one() -> None:
    logits = np.array([[5, 4, 3, 2, 1, 0]] * 6, np.float32)
    labels = np.arange(6)  # At places 1 to 6.
    assert [top_k_accuracy(logits, labels, k) for k in (1, 2, 5, 6)] == pytest.approx([1 / 6, 2 / 6, 5 / 6, 1])
    # Of equal logits the first counts, as in top-1 accuracy: a model that says nothing gets one in six.
    nothing = np.zeros((6, 6), np.float32)
    assert top_k_accuracy(nothing, labels, 1) == accuracy(nothing, labels) == 1 / 6
    assert top_k_accuracy(nothing, labels, 5) == 5 / 6


def test_calibration_error_is_the_gap_between_probability_and_accuracy() -> None:
    # Probability .9 is in bin ⌈.9 · 15⌉ = 14: 3 of 4 are right, |.75 − .9| = .15.
    # Probability .61 is in bin ⌈.61 · 15⌉ = 10: 1 of 1 is right, |1 − .61| = .39.
    logits, labels = _logits(*[[0.9, 0.1]] * 4, [0.61, 0.39]), np.array([0, 0, 0, 1, 0])
    assert expected_calibration_error(logits, labels) == pytest.approx(4 / 5 * 0.15 + 1 / 5 * 0.39, abs=1e-6)
    # .91 and .89 are both in bin 14, whose mean is .9: one of two is right.
    logits = _logits([0.91, 0.09], [0.89, 0.11])
    assert expected_calibration_error(logits, np.array([0, 1])) == pytest.approx(0.9 - 0.5, abs=1e-6)
    # .95 and .55 are in bins 15 and 9; the first is right and the second wrong: (|1 − .95| + |0 − .55|) / 2.
    logits = _logits([0.95, 0.05], [0.55, 0.45])
    assert expected_calibration_error(logits, np.array([0, 1])) == pytest.approx(0.3, abs=1e-6)
    sure = np.array([[1000.0, 0.0]], np.float32)
    assert expected_calibration_error(sure, np.array([0])) == 0
    assert expected_calibration_error(sure, np.array([1])) == 1


def test_cross_entropy_is_in_nats() -> None:
    # −(ln ½ + ln ¼) / 2 = 1.5 ln 2
    assert cross_entropy(_logits([0.5, 0.5], [0.75, 0.25]), np.array([0, 1])) == pytest.approx(1.5 * math.log(2))


def test_scores_are_those_of_scikit_learn() -> None:
    generator = np.random.default_rng(0)
    logits, labels = generator.normal(size=(500, 8)).astype(np.float32), generator.integers(0, 8, 500)
    scores = score(logits, labels)
    assert scores.accuracy == np.mean(logits.argmax(axis=1) == labels)
    assert scores.balanced_accuracy == pytest.approx(balanced_accuracy_score(labels, logits.argmax(axis=1)))
    assert scores.top_5_accuracy == pytest.approx(top_k_accuracy_score(labels, logits, k=5))
    assert scores.images.tolist() == [np.sum(labels == label) for label in range(8)]
    assert scores.recalls[scores.hardest].tolist() == sorted(scores.recalls)


def test_five_classes_have_no_top_5_accuracy() -> None:
    labels = np.array([4, 2, 2])
    assert score(np.eye(5, dtype=np.float32)[labels], labels).top_5_accuracy is None
    six = score(np.eye(6, dtype=np.float32)[labels], labels)
    assert six.top_5_accuracy == 1
    assert six.hardest == [2, 4]  # Both at 1; the others have no image.
