"""Which way to run the trained models at other sizes is the most accurate: tables and a figure."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from matplotlib.figure import Figure

from pipeline.common.condition import AS_IS, Condition, Mode, at_height
from pipeline.comparison.analysis import Group
from pipeline.comparison.arms import Arm
from pipeline.comparison.estimates import Bootstrap, Estimate, estimate
from pipeline.comparison.report.tables import Table, accuracy_text, interval_text
from pipeline.comparison.settings import Statistics


class WayStyle(Protocol):
    """What a report has to know of a way that models were run in."""

    @property
    def name(self) -> str: ...

    @property
    def rule(self) -> str:
        """What it does, in a sentence."""

    @property
    def color(self) -> str: ...

    @property
    def marker(self) -> str: ...

    @property
    def line(self) -> str: ...


@dataclass(frozen=True)
class Choice:
    """The best way to run an arm's models on images smaller, or larger, than those of training.

    Attributes:
        arm: Name of the arm.
        mode: Of making the images.
        heights: Of the images in pixels.
        best: The way with the highest mean accuracy over `heights`, of those that take all of them.
        accuracy: Of it, over `heights`.
        next_best: The second; None if no other takes all of `heights`.
        difference: Of the two; None likewise.
    """

    arm: str
    mode: Mode
    heights: tuple[int, ...]
    best: str
    accuracy: Estimate
    next_best: str | None
    difference: Estimate | None


def choices(group: Group, statistics: Statistics) -> list[Choice]:
    """The best way of each arm, in each mode, below and above the training size."""
    found = []
    for arm, mode, larger in itertools.product(group.arms, Mode, (False, True)):
        heights = [px for px in arm.verdicts if (px > group.trained.height if larger else px < group.trained.height)]
        tables = {
            way: np.mean([arm.answers[condition] for condition in conditions], axis=0)
            for way in (AS_IS, *arm.ways)
            if (conditions := [at_height(mode, px, group.trained.test_height, way) for px in heights])
            and set(conditions) <= set(arm.answers)
        }
        ranked = sorted(tables, key=lambda way: -float(tables[way].mean()))
        if not ranked or len(arm.seeds) < 2:
            continue
        seeds, images = tables[ranked[0]].shape
        bootstrap = Bootstrap(seeds, images, statistics.resamples)
        means = dict(zip(ranked, bootstrap.means([tables[way] for way in ranked]), strict=True))
        best, second = ranked[0], ranked[1] if len(ranked) > 1 else None
        difference = None
        if second is not None:
            difference = estimate(tables[best] - tables[second], means[best] - means[second])
        accuracy = estimate(tables[best], means[best])
        found.append(Choice(arm.name, mode, tuple(heights), best, accuracy, second, difference))
    return found


def best_ways_table(group: Group, statistics: Statistics) -> Table:
    """A row for each arm, mode and side of the training size: the most accurate way, and how far the next one is."""
    rows = []
    for choice in choices(group, statistics):
        span = f"{choice.heights[0]}–{choice.heights[-1]} px" if len(choice.heights) > 1 else f"{choice.heights[0]} px"
        rows.append(
            (
                choice.arm,
                f"{span}, {choice.mode.short}",
                _way_text(choice.best),
                accuracy_text(choice.accuracy, statistics.confidence),
                "-" if choice.next_best is None else _way_text(choice.next_best),
                interval_text(choice.difference, statistics.confidence) if choice.difference else "-",
            )
        )
    return Table(
        ("arm", "images", "best way", ">accuracy", "next best", ">best − next in points"),
        tuple(rows),
        "Means over the probed sizes of that side, among the ways that take all of them "
        f"[{statistics.confidence:.0%} interval], paired over seeds and images. The best of several is flattered: an "
        "interval that hardly leaves 0 out says little.",
    )


def ways_table(group: Group, statistics: Statistics, mode: Mode) -> Table:
    """A row for each arm and way, a column for each other size: accuracy and half its interval."""
    heights = group.other_heights
    rows = []
    for arm in group.arms:
        for way in (AS_IS, *arm.ways):
            conditions = [at_height(mode, px, group.trained.test_height, way) for px in heights]
            rows.append((arm.name, _way_text(way), *(_cell(arm, condition, statistics) for condition in conditions)))
    return Table(
        ("arm", "way", *(f">{px} px" for px in heights)),
        tuple(rows),
        f"Test accuracy, {mode.heading}, and half of its {statistics.confidence:.0%} interval; - where it is refused.",
    )


def _cell(arm: Arm, condition: Condition, statistics: Statistics) -> str:
    found = arm.accuracy.get(condition)
    if found is None:
        return "-"
    low, high = found.interval(statistics.confidence)
    return f"{found.mean:.3f} ± {(high - low) / 2:.3f}"


def ways_figure(group: Group, statistics: Statistics, ways: Mapping[str, WayStyle]) -> Figure:
    """Test accuracy by image height in pixels with intervals: a column an arm, a row a mode, a line a way.

    Args:
        group: What is shown.
        statistics: How sure the intervals are.
        ways: The ways that there are, by name; one that is not among them any more is gray.
    """
    heights = group.heights
    figure = Figure(figsize=(max(4.2, 3.6 * len(group.arms)), 6.2), layout="constrained", dpi=110)
    figure.suptitle(group.title)
    axes = figure.subplots(len(Mode), len(group.arms), sharex=True, sharey=True, squeeze=False)
    for (row, mode), (column, arm) in itertools.product(enumerate(Mode), enumerate(group.arms)):
        axis = axes[row, column]
        axis.axvline(group.trained.height, color="0.85", zorder=0)
        for way in (AS_IS, *arm.ways):
            color, marker, line = ("#000000", "o", "-") if way == AS_IS else ("#999999", ".", "-")
            if (style := ways.get(way)) is not None:
                color, marker, line = style.color, style.marker, style.line
            conditions = [at_height(mode, px, group.trained.test_height, way) for px in heights]
            means, errors = arm.curve(conditions, statistics.confidence)
            axis.errorbar(
                heights,
                means,
                yerr=list(zip(*errors, strict=True)),
                color=color,
                marker=marker,
                linestyle=line,
                markersize=5,
                capsize=2,
                label=_way_text(way),
            )
        axis.set(ylim=(0, 1), xticks=heights)
        axis.tick_params(axis="x", labelrotation=90)
        if row == 0:
            axis.set_title(arm.name)
        else:
            axis.set_xlabel("image height / px")
        if column == 0:
            axis.set_ylabel(f"test accuracy,\n{mode.label}")
    shown = {
        label: handle for axis in axes.flat for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)
    }
    figure.legend(shown.values(), shown.keys(), loc="outside lower center", ncols=4, fontsize="small")
    return figure


def _way_text(way: str) -> str:
    return way or "as it is"


def ways_tables(group: Group, statistics: Statistics) -> list[Table]:
    """What the ways to run the trained models at other sizes give; none without other ways or with a single seed."""
    if not any(arm.ways and arm.accuracy for arm in group.arms):
        return []
    by_mode = [ways_table(group, statistics, mode) for mode in Mode]
    return [best_ways_table(group, statistics), *by_mode]
