"""Which way to run the trained models at other sizes is the most accurate: tables and a figure."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pipeline.analysis import MODES, Arm, Group, Statistics, condition_of
from pipeline.inference import Bootstrap, Estimate, estimate
from pipeline.tables import Table, accuracy_text, interval_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

AS_IS = "as it is"
"""How a model that is run in no other way is named."""
STYLES = {
    AS_IS: ("#000000", "o", "-"),
    "resize_input": ("#56B4E9", "s", "--"),
    "global_pool": ("#0072B2", "D", "-."),
    "resize_map": ("#D55E00", "^", "-"),
    "interpolate_map": ("#E69F00", "v", "--"),
    "dense_to_conv": ("#009E73", "P", "-."),
    "dense_to_conv_mean_max": ("#CC79A7", "X", ":"),
}
"""Colour (of Okabe and Ito's palette), marker and line of each way."""


@dataclass(frozen=True)
class Choice:
    """The best way to run an arm's models on images smaller, or larger, than those of training.

    Attributes:
        arm: Name of the arm.
        mode: Of making the images, one of `MODES`.
        heights: Of the images in pixels.
        best: The way with the highest mean accuracy over `heights`, of those that take all of them.
        accuracy: Of it, over `heights`.
        next_best: The second; None if no other takes all of `heights`.
        difference: Of the two; None likewise.
    """

    arm: str
    mode: str
    heights: tuple[int, ...]
    best: str
    accuracy: Estimate
    next_best: str | None
    difference: Estimate | None


def choices(group: Group, statistics: Statistics) -> list[Choice]:
    """The best way of each arm, in each mode, below and above the training size."""
    found = []
    for arm, mode, larger in itertools.product(group.arms, MODES, (False, True)):
        heights = [px for px in arm.verdicts if (px > group.native if larger else px < group.native)]
        tables = {
            way: np.mean([arm.answers[name] for name in names], axis=0)
            for way in (AS_IS, *arm.ways)
            if (names := [_condition(mode, px, group.test_height, way) for px in heights])
            and set(names) <= set(arm.answers)
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
                f"{span}, {'resized' if choice.mode == 'resize' else 'on a canvas'}",
                choice.best,
                accuracy_text(choice.accuracy, statistics.confidence),
                choice.next_best or "-",
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


def ways_table(group: Group, statistics: Statistics, mode: str) -> Table:
    """A row for each arm and way, a column for each other size: accuracy and half its interval."""
    heights = sorted({px for arm in group.arms for px in arm.verdicts} - {group.test_height})
    rows = []
    for arm in group.arms:
        for way in (AS_IS, *arm.ways):
            names = [_condition(mode, px, group.test_height, way) for px in heights]
            rows.append((arm.name, way, *(_cell(arm, name, statistics) for name in names)))
    return Table(
        ("arm", "way", *(f">{px} px" for px in heights)),
        tuple(rows),
        f"Test accuracy, {MODES[mode]}, and half of its {statistics.confidence:.0%} interval; - where it is refused.",
    )


def _cell(arm: Arm, condition: str, statistics: Statistics) -> str:
    found = arm.accuracy.get(condition)
    if found is None:
        return "-"
    low, high = found.interval(statistics.confidence)
    return f"{found.mean:.3f} ± {(high - low) / 2:.3f}"


def ways_figure(group: Group, statistics: Statistics) -> Figure:
    """Test accuracy by image height in pixels with intervals: a column an arm, a row a mode, a line a way."""
    from matplotlib.figure import Figure

    heights = sorted({px for arm in group.arms for px in arm.verdicts})
    figure = Figure(figsize=(max(4.2, 3.6 * len(group.arms)), 6.2), layout="constrained", dpi=110)
    figure.suptitle(group.title)
    axes = figure.subplots(len(MODES), len(group.arms), sharex=True, sharey=True, squeeze=False)
    for (row, mode), (column, arm) in itertools.product(enumerate(MODES), enumerate(group.arms)):
        axis = axes[row, column]
        axis.axvline(group.native, color="0.85", zorder=0)
        for way in (AS_IS, *arm.ways):
            color, marker, line = STYLES.get(way, ("#999999", ".", "-"))
            conditions = [_condition(mode, px, group.test_height, way) for px in heights]
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
                label=way,
            )
        axis.set(ylim=(0, 1), xticks=heights)
        axis.tick_params(axis="x", labelrotation=90)
        if row == 0:
            axis.set_title(arm.name)
        else:
            axis.set_xlabel("image height / px")
        if column == 0:
            axis.set_ylabel(f"test accuracy,\n{'image resized' if mode == 'resize' else 'on a canvas'}")
    shown = {
        label: handle for axis in axes.flat for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)
    }
    figure.legend(shown.values(), shown.keys(), loc="outside lower center", ncols=4, fontsize="small")
    return figure


def _condition(mode: str, height: int, test_height: int | None, way: str) -> str:
    return condition_of(mode, height, test_height, "" if way == AS_IS else way)
