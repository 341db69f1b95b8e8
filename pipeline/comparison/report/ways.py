"""Which way to run the trained models at other sizes is the most accurate: tables and a figure."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Protocol

from matplotlib.figure import Figure

from pipeline.common.condition import AS_IS, Condition, Mode, way_text
from pipeline.common.table import Table
from pipeline.comparison.analysis import Group
from pipeline.comparison.arms import Arm
from pipeline.comparison.report.drawing import shortened, told
from pipeline.comparison.report.words import accuracy_text, interval_text
from pipeline.comparison.settings import Statistics
from pipeline.heads.verdict import span


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


def best_ways_table(group: Group, statistics: Statistics) -> Table:
    """A row for each arm, mode and side of the training size: the most accurate way, and how far the next one is."""
    rows = []
    for choice in group.choices:
        rows.append(
            (
                choice.arm,
                f"{span(choice.heights)}, {choice.mode.short}",
                way_text(choice.best),
                accuracy_text(choice.accuracy, statistics.confidence),
                "-" if choice.next_best is None else way_text(choice.next_best),
                interval_text(choice.difference, statistics.confidence) if choice.difference else "-",
                ", ".join(map(way_text, choice.rivals)) or "-",
            )
        )
    return Table(
        ("arm", "images", "best way", ">accuracy", "next best", ">best − next in points", "not decided against"),
        tuple(rows),
        "Means over the probed sizes of that side, among the ways that take all of them "
        f"[{statistics.confidence:.0%} interval], paired over seeds and images. The best of several is flattered. "
        "Whether it is better than another is corrected for that (Holm, over every pair of ways).",
        names=2,
    )


def ways_table(group: Group, statistics: Statistics, mode: Mode) -> Table:
    """A row for each arm and way, a column for each other size: accuracy and half its interval."""
    heights = group.other_heights
    rows = []
    for arm in group.arms:
        for way in (AS_IS, *arm.ways):
            conditions = [group.condition(mode, px, way) for px in heights]
            rows.append((arm.name, way_text(way), *(_cell(arm, condition, statistics) for condition in conditions)))
    return Table(
        ("arm", "way", *(f">{px} px" for px in heights)),
        tuple(rows),
        f"Test accuracy, {mode.heading}, and half of its {statistics.confidence:.0%} interval; - where it is refused.",
        names=2,
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
            conditions = [_measured(group, arm, mode, px, way) for px in heights]
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
                label=way_text(way),
            )
            for px, condition, mean in zip(heights, conditions, means, strict=True):
                if condition in arm.accuracy:
                    text = accuracy_text(arm.accuracy[condition], statistics.confidence)
                    told(axis, px, mean, f"{way_text(way)} at {px} px: {text}")
        axis.set(ylim=(0, 1), xticks=heights)
        axis.tick_params(axis="x", labelrotation=90)
        if row == 0:
            axis.set_title(shortened(arm.name))
        else:
            axis.set_xlabel("image height / px")
        if column == 0:
            axis.set_ylabel(f"test accuracy,\n{mode.label}")
    shown = {
        label: handle for axis in axes.flat for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)
    }
    figure.legend(shown.values(), shown.keys(), loc="outside lower center", ncols=4, fontsize="small")
    return figure


def _measured(group: Group, arm: Arm, mode: Mode, height: int, way: str) -> Condition:
    """The condition whose accuracy a point shows: most ways answer like the model itself at the training size."""
    own = Condition(mode, height, way)
    return own if own in arm.answers else group.condition(mode, height, way)


def ways_tables(group: Group, statistics: Statistics) -> list[Table]:
    """What the ways to run the trained models at other sizes give; none without other ways or with a single seed."""
    if not group.choices:
        return []
    by_mode = [ways_table(group, statistics, mode) for mode in Mode]
    return [best_ways_table(group, statistics), *by_mode]
