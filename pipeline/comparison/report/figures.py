"""A report's figures."""

from __future__ import annotations

import math
from collections.abc import Mapping

import matplotlib
from matplotlib.figure import Figure

from pipeline.common.condition import TEST, Mode
from pipeline.common.names import Metric
from pipeline.comparison.analysis import Group
from pipeline.comparison.report.tables import pareto_front
from pipeline.comparison.report.ways import WayStyle, ways_figure
from pipeline.comparison.report.words import points_text
from pipeline.comparison.settings import Statistics
from pipeline.heads.verdict import Verdict

matplotlib.rcParams["text.parse_math"] = False  # A name with dollar signs is no formula.

ALT_TEXTS = {
    "differences": "Differences of test accuracy between arms, with intervals",
    "sizes": "Test accuracy by image size, with intervals",
    "cost": "Test accuracy over the number of parameters",
    "ways": "Test accuracy by image size for each way to run the trained models, with intervals",
}


def size_figure(group: Group, statistics: Statistics) -> Figure:
    """Test accuracy by image height in pixels with intervals, a line an arm, a chart a mode.

    Lines have gaps where an arm refuses, and hollow points where it crops.
    """
    figure = Figure(figsize=(10, 4.2), layout="constrained", dpi=110)
    figure.suptitle(group.title)
    axes = figure.subplots(1, len(Mode), sharey=True)
    heights = group.heights
    for mode, axis in zip(Mode, axes, strict=True):
        axis.axvline(group.trained.height, color="0.85", zorder=0)
        for index, arm in enumerate(group.arms):
            conditions = [group.condition(mode, px) for px in heights]
            means, errors = arm.curve(conditions, statistics.confidence)
            style = {"marker": "osD^v"[index % 5], "color": arm.color, "linestyle": ("-", "--", ":", "-.")[index % 4]}
            axis.errorbar(
                heights,
                means,
                yerr=list(zip(*errors, strict=True)),
                capsize=3,
                markersize=8 - 1.5 * (index % 4),
                label=arm.name,
                **style,
            )
            cropped = [
                (px, mean)
                for px, mean in zip(heights, means, strict=True)
                if arm.verdicts.get(px) is Verdict.CROPS and not math.isnan(mean)
            ]
            if cropped:
                xs, ys = zip(*cropped, strict=True)
                axis.plot(xs, ys, style["marker"], color=arm.color, markerfacecolor="white", markersize=6, zorder=5)
        axis.set(title=mode.heading, xlabel="image height / px", ylim=(0, 1), xticks=heights)
    axes[0].set_ylabel("test accuracy")
    axes[0].legend(
        loc="lower right", fontsize="small", title="hollow: part of the map is ignored", title_fontsize="small"
    )
    return figure


def cost_figure(group: Group, statistics: Statistics) -> Figure:
    """Test accuracy with intervals over the number of parameters; the Pareto front is joined."""
    figure = Figure(figsize=(6, 3.8), layout="constrained", dpi=110)
    axis = figure.subplots()
    front = pareto_front(group)
    points = []
    for index, arm in enumerate(group.arms):
        found = arm.accuracy[TEST]
        low, high = found.interval(statistics.confidence)
        parameters = arm.mean(Metric.PARAMETERS.column)
        axis.errorbar(
            [parameters],
            [found.mean],
            yerr=[[found.mean - low], [high - found.mean]],
            color=arm.color,
            marker="osD^v"[index % 5],
            markersize=9 - 1.5 * (index % 4),
            capsize=4,
            linestyle="none",
            label=arm.name,
        )
        if arm.name in front:
            points.append((parameters, found.mean))
    axis.plot(*zip(*sorted(points), strict=True), color="0.6", linewidth=1, zorder=0, label="Pareto front")
    axis.set(xlabel="parameters", ylabel="test accuracy", title=group.title)
    axis.xaxis.set_major_formatter("{x:,.0f}")
    axis.margins(x=0.15)
    axis.legend(fontsize="small")
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
    axis.set(
        xlabel=f"difference of test accuracy in points, {statistics.confidence:.0%} interval",
        yticks=range(len(compared)),
        yticklabels=[f"{found.first} − {found.second}" for found in compared],
        ylim=(-0.6, len(compared) - 0.4),
    )
    axis.legend(fontsize="small", loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def figures(group: Group, statistics: Statistics, ways: Mapping[str, WayStyle]) -> dict[str, Figure]:
    """The report's figures by a short name; none where nothing is compared."""
    if not group.comparisons:
        return {}
    found = {
        "differences": difference_figure(group, statistics),
        "sizes": size_figure(group, statistics),
        "cost": cost_figure(group, statistics),
    }
    if any(arm.ways for arm in group.arms):
        found["ways"] = ways_figure(group, statistics, ways)
    return found
