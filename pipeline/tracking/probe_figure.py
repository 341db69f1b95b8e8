"""The picture of a probe: accuracy by image size, a line a way, a panel a mode."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure

from pipeline.common.condition import AS_IS, Mode, way_text
from pipeline.other_sizes.probe import ProbedSize
from pipeline.other_sizes.ways import WAYS

AS_IS_STYLE = {"color": "black", "marker": "o", "linestyle": "-", "zorder": 3}
STYLES = {way.name: {"color": way.color, "marker": way.marker, "linestyle": way.line} for way in WAYS}


def probe_figure(probed: Sequence[ProbedSize], names: Sequence[str], native: int, title: str) -> Figure:
    """Accuracies with their intervals.

    Args:
        probed: By size, ascending.
        names: Of the ways, `AS_IS` among them.
        native: Height of the training images in pixels, which is marked.
        title: Above both panels.
    """
    figure = Figure(figsize=(10, 4.5), layout="constrained")
    axes = figure.subplots(1, len(Mode), sharey=True)
    for axis, mode in zip(axes, Mode, strict=True):
        axis.axvline(native, color="#999999", linewidth=0.8, linestyle=":")
        for name in names:
            # Where a way does not take a size, its line has a gap.
            scores = [result.scores.get(name, {}).get(mode) for result in probed]
            nan = float("nan")
            values = [nan if score is None else score.accuracy for score in scores]
            ends = [(nan, nan) if score is None else score.interval for score in scores]
            below = [value - low for value, (low, _) in zip(values, ends, strict=True)]
            above = [high - value for value, (_, high) in zip(values, ends, strict=True)]
            style = AS_IS_STYLE if name == AS_IS else STYLES[name]
            heights = [result.size[0] for result in probed]
            axis.errorbar(heights, values, (below, above), label=way_text(name), markersize=4, capsize=2, **style)
        axis.set_title(mode.heading)
        axis.set_xlabel("height of the image in pixels")
        axis.set_ylim(0, 1)
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("accuracy, 95 % Wilson intervals")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), fontsize="small")
    figure.suptitle(title, parse_math=False)
    return figure
