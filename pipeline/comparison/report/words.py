"""Numbers and lists in words."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.comparison.estimates import Estimate, WinProbability

SMALLEST_P = 1e-12
"""Below it a p value is not written out: no table of answers is described by a model so far out."""


def interval_text(difference: Estimate, confidence: float) -> str:
    """`+1.75 [+1.43, +2.04]`, in points."""
    low, high = difference.interval(confidence)
    middle, low, high = (round(100 * value, 2) + 0.0 for value in (difference.mean, low, high))  # No −0.00.
    return f"{middle:+.2f} [{low:+.2f}, {high:+.2f}]"


def range_text(difference: Estimate, confidence: float) -> str:
    """`1.75 points, 1.43 to 2.04`, of a difference that is told in words: without its sign."""
    low, high = sorted(value * (1 if difference.mean >= 0 else -1) for value in difference.interval(confidence))
    low, high = (round(100 * value, 2) + 0.0 for value in (low, high))
    return f"{points_text(abs(difference.mean))}, {low:.2f} to {high:.2f}"


def accuracy_text(accuracy: Estimate, confidence: float) -> str:
    """`0.9242 [0.9198, 0.9288]`."""
    low, high = accuracy.interval(confidence)
    return f"{accuracy.mean:.4f} [{max(low, 0.0):.4f}, {min(high, 1.0):.4f}]"


def points_text(difference: float) -> str:
    """`1.75 points`: hundredths of accuracy."""
    return f"{100 * difference:.2f} points"


def p_text(p_value: float) -> str:
    """`0.0059`, or `< 1e-12`."""
    return f"< {SMALLEST_P:.0e}" if p_value < SMALLEST_P else f"{p_value:.2g}"


def wins_text(wins: WinProbability) -> str:
    """`1.00 [0.69, 1.00]`."""
    return f"{wins.share:.2f} [{wins.low:.2f}, {wins.high:.2f}]"


def span_text(numbers: Sequence[float]) -> str:
    """`0.42–0.81`: the smallest and the largest."""
    low, high = (f"{number:.2f}" for number in (min(numbers), max(numbers)))
    return low if low == high else f"{low}–{high}"


def heights_text(heights: Sequence[int]) -> str:
    """`14, 21 and 49 px`."""
    return f"{listed_text([str(height) for height in heights])} px"


def listed_text(items: Sequence[str]) -> str:
    """`a, b and c`."""
    return f"{', '.join(items[:-1])} and {items[-1]}" if len(items) > 1 else items[0]
