"""Scores beside accuracy: of each arm, and of each class. No verdict rests on them."""

from __future__ import annotations

from collections.abc import Iterator

from pipeline.common.condition import Mode
from pipeline.common.names import CALIBRATION, RECALL, Metric
from pipeline.common.table import Table
from pipeline.comparison.analysis import Group
from pipeline.comparison.arms import Arm
from pipeline.comparison.report.classes import MAX_CLASSES, classes_tables
from pipeline.comparison.settings import Statistics

MEANINGS = {
    Metric.TEST_BALANCED_ACCURACY: "Balanced accuracy: mean recall of the classes",
    Metric.TEST_TOP_5_ACCURACY: "Top-5 accuracy: share of images whose class is among the five likeliest",
    Metric.TEST_CALIBRATION_ERROR: "Calibration error: how far the probability of the predicted class is from the "
    "share that is right, over 15 bins of probability (ECE, Guo et al. 2017)",
}
"""The scores in the order of their columns, and what each is."""
RECALL_MEANING = "Recall: share of a class's test images that are classified as it"


def scores_tables(group: Group, statistics: Statistics) -> Iterator[Table]:
    """A row an arm, then a row a class, as far as the runs recorded it: those of earlier versions did not."""
    shown = [metric for metric in MEANINGS if any(metric.column in arm.runs for arm in group.arms)]
    recalls = {arm.name: _recalls(arm) for arm in group.arms}
    if shown:
        yield _by_arm(group, shown, recalls)
    calibration = _calibration(group)
    if calibration.rows:
        yield calibration
    of_classes = list(classes_tables(group, statistics))
    if of_classes:
        yield from of_classes
    elif any(recalls.values()):
        yield _by_class(recalls)


def _by_arm(group: Group, shown: list[Metric], recalls: dict[str, dict[str, float]]) -> Table:
    rows = []
    for arm in group.arms:
        lowest = min(recalls[arm.name].items(), key=lambda found: found[1], default=None)
        rows.append(
            (
                arm.name,
                *(_number(_mean(arm, metric.column)) for metric in (Metric.TEST_ACCURACY, *shown)),
                f"{lowest[1]:.4f} ({lowest[0]})" if lowest else "-",
            )
        )
    headings = [meaning.partition(":")[0].lower() for meaning in (MEANINGS[metric] for metric in shown)]
    sentences = [
        *(MEANINGS[metric] for metric in shown),
        RECALL_MEANING,
        "Means over the seeds, on which no verdict rests",
    ]
    return Table(
        ("arm", ">test accuracy", *(f">{heading}" for heading in headings), ">lowest recall (class)"),
        tuple(rows),
        ". ".join(sentences) + ".",
    )


def _calibration(group: Group) -> Table:
    """A row for each other image size and way of making it; none where no run has recorded it."""
    rows = []
    for mode in Mode:
        for px in group.other_heights:
            condition = group.condition(mode, px)
            found = [_mean(arm, f"{CALIBRATION}{condition}") for arm in group.arms]
            if any(error is not None for error in found):
                rows.append((condition.words(group.trained.in_words), *map(_number, found)))
    return Table(
        ("images", *(f">{arm.name}" for arm in group.arms)),
        tuple(rows),
        "Calibration error at other sizes, of the models as they are; mean over the seeds. - where a size is refused.",
    )


def _by_class(recalls: dict[str, dict[str, float]]) -> Table:
    classes = dict.fromkeys(name for of_arm in recalls.values() for name in of_arm)

    def mean(name: str) -> float:
        found = [of_arm[name] for of_arm in recalls.values() if name in of_arm]
        return sum(found) / len(found)

    hardest = sorted(classes, key=mean)[:MAX_CLASSES]
    cut = f"; the first {MAX_CLASSES} of {len(classes):,} classes" if len(classes) > MAX_CLASSES else ""
    return Table(
        ("class", *(f">{arm}" for arm in recalls)),
        tuple((name, *(_number(of_arm.get(name)) for of_arm in recalls.values())) for name in hardest),
        f"{RECALL_MEANING}; mean over the seeds, lowest first{cut}. Classes without a test image are left out.",
    )


def _recalls(arm: Arm) -> dict[str, float]:
    """Mean recall over the seeds by class, of the classes that have test images."""
    columns = [str(column) for column in arm.runs if str(column).startswith(RECALL)]
    means = {column.removeprefix(RECALL): _mean(arm, column) for column in columns}
    return {name: mean for name, mean in means.items() if mean is not None}


def _mean(arm: Arm, column: str) -> float | None:
    """None unless every run has it: a mean over some of the seeds would not be comparable."""
    return arm.mean(column) if column in arm.runs and arm.runs[column].notna().all() else None


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
