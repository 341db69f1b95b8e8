"""Where a lead comes from: how much more accurate the best arm is than each other in each class, with intervals."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np

from pipeline.common.condition import TEST
from pipeline.common.names import LABELS
from pipeline.common.table import Table
from pipeline.comparison.analysis import Group
from pipeline.comparison.answers import unpack_labels
from pipeline.comparison.estimates import Estimate, estimate
from pipeline.comparison.report.words import accuracy_text, interval_text
from pipeline.comparison.settings import Statistics

MAX_CLASSES = 20
"""Classes that a table has room for."""
FEWEST_IMAGES = 2
"""Of a class, below which nothing can be said about other images of it."""


def classes_tables(group: Group, statistics: Statistics) -> Iterator[Table]:
    """A row a class: the arms' accuracies, then the leads of the most accurate arm.

    No table where nothing is compared, or where the classes of the images are not known: older runs did not bring them.
    """
    known = known_classes(group)
    if not group.comparisons or known is None:
        return
    labels, names = known
    counts = np.bincount(labels, minlength=len(names))
    answers = {arm.name: arm.answers[TEST].astype(np.int8) for arm in group.arms}
    leader = max(answers, key=lambda name: answers[name].mean())
    leads = {f"{leader} − {name}": answers[leader] - answers[name] for name in answers if name != leader}

    def largest_part(label: int) -> float:
        """How much of a lead the class makes, of the lead of which it makes most."""
        return max(abs(float(lead[:, labels == label].sum())) for lead in leads.values())

    told = [label for label in range(len(names)) if counts[label] >= FEWEST_IMAGES]
    shown = sorted(told, key=largest_part, reverse=True)[:MAX_CLASSES]
    cut = f"; the first {MAX_CLASSES} of {len(told):,} classes" if len(told) > MAX_CLASSES else ""
    interval = f"[{statistics.confidence:.0%} interval] over other seeds and other images"

    def by_class(tables: Mapping[str, np.ndarray], text_of: Callable[[Estimate, float], str], caption: str) -> Table:
        rows = []
        for label in shown:
            estimates = (estimate(table[:, labels == label]) for table in tables.values())
            cells = (text_of(found, statistics.confidence) for found in estimates)
            rows.append((names[label], f"{counts[label]:,}", *cells))
        return Table(("class", ">images", *(f">{name}" for name in tables)), tuple(rows), caption)

    yield by_class(
        answers,
        accuracy_text,
        f"Accuracy on the test images of each class {interval}. The classes that make most of a lead come first{cut}.",
    )
    yield by_class(
        leads,
        interval_text,
        f"Lead in points on the test images of each class {interval}. Weighted with its images, each class gives its "
        "part of the lead at the training size. No verdict rests on these: with many classes, some intervals miss 0 by "
        "chance.",
    )


def known_classes(group: Group) -> tuple[np.ndarray, tuple[str, ...]] | None:
    """Label of each test image, (N,), and the classes' names; None unless all runs say the same of all images."""
    recorded = {packed for arm in group.arms for packed in arm.runs.get(LABELS, [None])}
    (packed,) = recorded if len(recorded) == 1 else (None,)
    if not isinstance(packed, bytes):
        return None
    labels, names = unpack_labels(packed)
    is_whole = all(arm.answers[TEST].shape[1] == len(labels) for arm in group.arms if TEST in arm.answers)
    return (labels, names) if is_whole else None
