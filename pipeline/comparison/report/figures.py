"""A report's figures."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipeline.common.condition import TEST, Mode
from pipeline.common.names import Metric
from pipeline.comparison.analysis import Group
from pipeline.comparison.arms import Arm
from pipeline.comparison.estimates import Estimate
from pipeline.comparison.report.drawing import of_arm, shortened, told
from pipeline.comparison.report.tables import pareto_front
from pipeline.comparison.report.ways import WayStyle, ways_figure
from pipeline.comparison.report.words import accuracy_text, interval_text, points_text
from pipeline.comparison.settings import Statistics
from pipeline.heads.verdict import Verdict

matplotlib.rcParams["text.parse_math"] = False  # A name with dollar signs is no formula.

REFUSED = 0.02
"""Accuracy at which a size that an arm refuses is marked, and how far from it the next arm's mark is."""
MARKERS, LINES = "osD^v", ("-", "--", ":", "-.")


def accuracy_figure(group: Group, statistics: Statistics) -> Figure:
    """Test accuracy at the training size with intervals, a row an arm, as wide as they differ."""
    figure = Figure(figsize=(7, 1.1 + 0.4 * len(group.arms)), layout="constrained", dpi=110)
    axis = figure.subplots()
    for index, arm in enumerate(group.arms):
        found = arm.accuracy[TEST]
        (below, above) = _errors(found, statistics)
        lines = axis.errorbar([found.mean], [index], xerr=[[below], [above]], color=arm.color, marker="o", capsize=4)
        of_arm(index, lines)
        told(axis, found.mean, index, f"{arm.name}: {accuracy_text(found, statistics.confidence)}", index)
    axis.set(
        xlabel=f"test accuracy at {group.trained.in_words}, {statistics.confidence:.0%} interval",
        yticks=range(len(group.arms)),
        yticklabels=[shortened(arm.name) for arm in group.arms],
        ylim=(len(group.arms) - 0.5, -0.5),
    )
    axis.grid(axis="x", color="0.9")
    return figure


def size_figure(group: Group, statistics: Statistics, modes: Sequence[Mode] = tuple(Mode)) -> Figure:
    """Test accuracy by image height in pixels with intervals, a line an arm, a chart a mode.

    Lines have gaps where an arm refuses, with crosses on the axis, and hollow points where it crops.
    """
    figure = Figure(figsize=(5 * len(modes) + 0.6, 4.6), layout="constrained", dpi=110)
    if len(modes) > 1:
        figure.suptitle(group.title)
    axes = figure.subplots(1, len(modes), sharey=True, squeeze=False)[0]
    for mode, axis in zip(modes, axes, strict=True):
        axis.axvline(group.trained.height, color="0.85", zorder=0)
        for index, arm in enumerate(group.arms):
            _accuracy_by_size(axis, group, arm, index, mode, statistics)
        axis.set(title=mode.heading, xlabel="image height / px", ylim=(0, 1), xticks=group.heights)
        axis.tick_params(axis="x", labelsize="small")
    axes[0].set_ylabel("test accuracy")
    _legend_below(figure, axes[0], "hollow: part of the map is ignored; × on the axis: refused")
    return figure


def _accuracy_by_size(axis: Axes, group: Group, arm: Arm, index: int, mode: Mode, statistics: Statistics) -> None:
    heights = group.heights
    conditions = [group.condition(mode, px) for px in heights]
    means, errors = arm.curve(conditions, statistics.confidence)
    marker = MARKERS[index % 5]
    lines = axis.errorbar(
        heights,
        means,
        yerr=list(zip(*errors, strict=True)),
        capsize=3,
        markersize=8 - 1.5 * (index % 4),
        label=shortened(arm.name),
        marker=marker,
        color=arm.color,
        linestyle=LINES[index % 4],
    )
    of_arm(index, lines)
    for px, condition, mean in zip(heights, conditions, means, strict=True):
        verdict = arm.verdicts.get(px)
        if math.isnan(mean):
            if verdict is Verdict.REFUSES:
                (mark,) = axis.plot([px], [REFUSED * (1 + index)], "x", color=arm.color, markersize=6, clip_on=False)
                of_arm(index, [mark])
                told(axis, px, REFUSED * (1 + index), f"{arm.name} at {px} px: refuses", index)
            continue
        if verdict is Verdict.CROPS:
            (mark,) = axis.plot([px], [mean], marker, color=arm.color, markerfacecolor="white", markersize=6, zorder=5)
            of_arm(index, [mark])
        text = accuracy_text(arm.accuracy[condition], statistics.confidence)
        told(axis, px, mean, f"{arm.name} at {px} px: {text}" + (f", {verdict.value}" if verdict else ""), index)


def cost_figure(group: Group, statistics: Statistics) -> Figure:
    """Test accuracy with intervals over the number of parameters; the Pareto front is joined."""
    figure = Figure(figsize=(6, 4.2), layout="constrained", dpi=110)
    axis = figure.subplots()
    front = pareto_front(group)
    points = []
    for index, arm in enumerate(group.arms):
        found = arm.accuracy[TEST]
        below, above = _errors(found, statistics)
        parameters = arm.mean(Metric.PARAMETERS.column)
        lines = axis.errorbar(
            [parameters],
            [found.mean],
            yerr=[[below], [above]],
            color=arm.color,
            marker=MARKERS[index % 5],
            markersize=9 - 1.5 * (index % 4),
            capsize=4,
            linestyle="none",
            label=shortened(arm.name),
        )
        of_arm(index, lines)
        text = accuracy_text(found, statistics.confidence)
        told(axis, parameters, found.mean, f"{arm.name}: {text}, {parameters:,.0f} parameters", index)
        if arm.name in front:
            points.append((parameters, found.mean))
    axis.plot(*zip(*sorted(points), strict=True), color="0.6", linewidth=1, zorder=0, label="Pareto front")
    axis.set(xlabel="parameters", ylabel="test accuracy", title=group.title)
    axis.xaxis.set_major_formatter("{x:,.0f}")
    axis.margins(x=0.15)
    _legend_below(figure, axis)
    return figure


def difference_figure(group: Group, statistics: Statistics) -> Figure:
    """The differences at the training size with their intervals, and the band of −δ to δ within which none counts."""
    compared = [found for found in group.comparisons if found.condition == TEST][::-1]
    figure = Figure(figsize=(8, 1.4 + 0.45 * len(compared)), layout="constrained", dpi=110)
    axis = figure.subplots()
    margin = 100 * statistics.margin
    axis.axvspan(-margin, margin, color="0.9", zorder=0, label=f"within δ = {points_text(statistics.margin)}")
    axis.axvline(0, color="0.6", linewidth=1, zorder=1)
    for index, found in enumerate(compared):
        low, high = found.difference.interval(statistics.confidence)
        middle = 100 * found.difference.mean
        axis.errorbar(
            [middle], [index], xerr=[[middle - 100 * low], [100 * high - middle]], color="black", marker="o", capsize=4
        )
        text = interval_text(found.difference, statistics.confidence)
        told(axis, middle, index, f"{found.first} − {found.second}: {text} points")
    axis.set(
        xlabel=f"difference of test accuracy in points, {statistics.confidence:.0%} interval",
        yticks=range(len(compared)),
        yticklabels=[f"{shortened(found.first)} − {shortened(found.second)}" for found in compared],
        ylim=(-0.6, len(compared) - 0.4),
    )
    _legend_below(figure, axis)
    return figure


def _errors(found: Estimate, statistics: Statistics) -> tuple[float, float]:
    """How far the interval reaches below and above the mean, within 0 and 1 as in tables."""
    low, high = found.interval(statistics.confidence)
    return found.mean - max(low, 0.0), min(high, 1.0) - found.mean


def _legend_below(figure: Figure, axis: Axes, title: str = "") -> None:
    """The legend of an axis, below all of the figure: on no data."""
    handles, labels = axis.get_legend_handles_labels()
    columns = 1 if max(map(len, labels)) > 40 else min(3, len(labels))
    figure.legend(
        handles,
        labels,
        loc="outside lower center",
        ncols=columns,
        fontsize="small",
        title=title,
        title_fontsize="small",
    )


def figures(group: Group, statistics: Statistics, ways: Mapping[str, WayStyle]) -> dict[str, Figure]:
    """The report's figures by a short name; none where nothing is compared."""
    if not group.comparisons:
        return {}
    found = {
        "accuracy": accuracy_figure(group, statistics),
        "differences": difference_figure(group, statistics),
        "sizes": size_figure(group, statistics),
        "cost": cost_figure(group, statistics),
    }
    if any(arm.ways for arm in group.arms):
        found["ways"] = ways_figure(group, statistics, ways)
    return found


def finding(name: str, group: Group, statistics: Statistics) -> str:
    """What a figure shows, for those who cannot see it."""
    if name == "accuracy":
        shown = (f"{arm.name} {accuracy_text(arm.accuracy[TEST], statistics.confidence)}" for arm in group.arms)
        return f"Test accuracy at {group.trained.in_words}: {'; '.join(shown)}."
    if name == "differences":
        shown = (
            f"{found.first} − {found.second} {interval_text(found.difference, statistics.confidence)}"
            for found in group.comparisons
            if found.condition == TEST
        )
        return f"Differences of test accuracy in points: {'; '.join(shown)}."
    if name == "cost":
        shown = (
            f"{arm.name} {arm.accuracy[TEST].mean:.4f} with {arm.mean(Metric.PARAMETERS.column):,.0f}"
            for arm in group.arms
        )
        return f"Test accuracy over parameters: {'; '.join(shown)}."
    if name == "ways":
        return "Test accuracy by image size for each way to run the trained models; their table has the numbers."
    return "Test accuracy by image size; the table of every image size has the numbers."
