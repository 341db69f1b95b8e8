"""What a run's page shows: its description, conclusion first, and its pictures."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Collection, Sequence
from typing import Any

import keras
import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sklearn.metrics import ConfusionMatrixDisplay, confusion_matrix

from pipeline.common.condition import Mode
from pipeline.common.names import File
from pipeline.common.size import size_text
from pipeline.data.batches import Data
from pipeline.data.facts import DatasetFacts
from pipeline.heads.base import Head
from pipeline.heads.verdict import LEGEND, Verdict, phrase
from pipeline.models.cost import Cost
from pipeline.models.scores import Scores
from pipeline.other_sizes.measure import MeasuredSize
from pipeline.tracking.explanations import EXAMPLES, activation_figure, cropped, examples, ignored_figure
from pipeline.tracking.fonts import drawable, families_for
from pipeline.tracking.pictures import WIDTH, predicted_words, probabilities, tiles

NO_ACTIVATIONS = (
    "No class activation map: the class scores of this head are no sum of what each cell of the feature map gives."
)
MISTAKES = 12
"""Misclassified images shown."""
APART = "\u2003"
"""Behind a cell: MLflow leaves no room between the columns of a table."""
MODE_STYLES = (("o-", "#0072B2"), ("s--", "#D55E00"))
"""Point and line, and colour, of each mode's curve."""
MAX_RECALLS = 12
"""Classes in the description; its room is limited."""
MAX_NAMED_CLASSES = 30
"""More classes than this have no room for names and numbers in a picture."""


def describe(
    facts: DatasetFacts,
    backbone: str,
    cost: Cost,
    scores: Scores,
    measured: Sequence[MeasuredSize],
    drawn: Collection[str],
    command: str | None,
    picture: Callable[[str], str],
) -> str:
    """The run's description in Markdown.

    Args:
        facts: What it was trained on.
        backbone: The backbone in a sentence without its full stop.
        cost: What the model costs.
        scores: On the test split, at the training size or at natural sizes.
        measured: What happened at each probed size.
        drawn: Names of the pictures that there are.
        command: What to type to run it again; None if it was not started by a command.
        picture: Address of a picture, given its file name.
    """
    verdicts = {result.size[0]: result.verdict for result in measured}
    conclusion = (
        f"**{cost.parameters_total:,} parameters, {scores.accuracy:.3f} test accuracy at "
        f"{facts.trained_size.in_words}; {phrase(verdicts, facts.trained_size.height)}.**"
    )
    parts = [
        conclusion,
        f"{backbone}.",
        _size_table(measured),  # What MLflow shows without a click.
        f"![Accuracy by image size]({picture(File.SIZE_FIGURE)})",
    ]
    if measured[0].ways:
        parts.append(_ways_table(measured))
    parts.append("\n".join(f"- {line}" for line in LEGEND))
    if File.IGNORED_FIGURE in drawn:
        parts.append(f"![{File.IGNORED_FIGURE}]({picture(File.IGNORED_FIGURE)})")
    parts += [_scores_line(scores), _recall_table(scores, facts.class_names)]
    parts += [f"![{name}]({picture(name)})" for name in (File.CONFUSION_FIGURE, File.MISTAKES_FIGURE)]
    if File.ACTIVATION_FIGURE in drawn:
        parts.append(f"![{File.ACTIVATION_FIGURE}]({picture(File.ACTIVATION_FIGURE)})")
    else:
        parts.append(NO_ACTIVATIONS)
    if replaced := [
        f"{drawn_as} is {name}"
        for drawn_as, name in zip(drawable(facts.class_names), facts.class_names, strict=True)
        if drawn_as != name
    ]:
        more = f"; and so on, see {File.RECALL_TABLE}" if len(replaced) > MAX_RECALLS else ""
        parts.append(f"Names that no font here can draw: {', '.join(replaced[:MAX_RECALLS])}{more}.")
    if command:
        parts.append(f"Run it again:\n\n```\n{command}\n```")
    return "\n\n".join(parts) + "\n"


def _size_table(measured: Sequence[MeasuredSize]) -> str:
    lines = [
        "| image / px | feature map | verdict | seen of the map | seen of the image | "
        + " | ".join(f"accuracy, {mode.short}" for mode in Mode)
        + " |",
        "|---|---|---|---:|---:|" + "---:|" * len(Mode),
    ]
    lines += [
        f"| {size_text(result.size)} | {size_text(result.map_size) if result.map_size else '-'} | "
        f"`{result.verdict.value}`{APART} | {result.seen_fraction:.0%}{APART} | {result.seen_pixels:.0%}{APART} | "
        + " | ".join(_number(result.as_is.accuracy(mode)) + APART for mode in Mode)
        + " |"
        for result in measured
    ]
    return "\n".join(lines)


def _ways_table(measured: Sequence[MeasuredSize]) -> str:
    """Accuracies of the ways to run the model at other sizes: resized / on a canvas."""
    ways = list(measured[0].ways)
    modes = " / ".join(mode.short for mode in Mode)
    lines = [f"| image / px, {modes} | " + " | ".join(ways) + " |", "|---|" + "---:|" * len(ways)]
    for result in measured:
        cells = [
            " / ".join(_number(predictions.accuracy(mode)) for mode in Mode) for predictions in result.ways.values()
        ]
        lines.append(" | ".join([f"| {size_text(result.size)}", *cells]) + " |")
    return "\n".join(lines)


def _scores_line(scores: Scores) -> str:
    found = {
        "balanced accuracy": scores.balanced_accuracy,
        "top-5 accuracy": scores.top_5_accuracy,
        "calibration error": scores.calibration_error,
    }
    return "Test images: " + ", ".join(f"{name} {value:.4f}" for name, value in found.items() if value is not None)


def _recall_table(scores: Scores, class_names: Sequence[str]) -> str:
    """The classes of which the smallest share of test images is classified as them."""
    hardest = scores.hardest
    lines = ["| class, lowest recall first | test images | recall |", "|---|---:|---:|"]
    for label in hardest[:MAX_RECALLS]:
        name = class_names[label].replace("|", "\\|")
        lines.append(f"| {name} | {scores.images[label]} | {scores.recalls[label]:.4f} |")
    if len(hardest) > MAX_RECALLS:
        lines.append(f"\nAll {len(hardest):,} classes are in {File.RECALL_TABLE}.")
    return "\n".join(lines)


def _number(accuracy: float) -> str:
    return "-" if math.isnan(accuracy) else f"{accuracy:.4f}"


def draw(
    model: keras.Model,
    head: Head,
    data: Data,
    logits: np.ndarray,
    labels: np.ndarray,
    measured: Sequence[MeasuredSize],
) -> dict[str, Figure]:
    """The run's pictures by file name.

    Args:
        model: The trained model.
        head: The configuration of its head.
        data: Of the run; images are read from its test split.
        logits: Of the test split at the training size, (N, K).
        labels: Its labels, (N,).
        measured: What happened at each probed size.
    """
    names = drawable(data.facts.class_names)
    wrong = most_confident_mistakes(logits, labels)
    explained = np.concatenate([examples(len(labels)), wrong[:EXAMPLES]])
    images = _test_images(data, np.union1d(explained, wrong))
    mistaken, shown = ([images[index] for index in indices] for indices in (wrong, explained))
    with matplotlib.rc_context({"font.family": families_for(names)}):
        figures = {
            File.SIZE_FIGURE: size_figure(measured),
            File.CONFUSION_FIGURE: confusion_figure(labels, logits.argmax(axis=1), names),
            File.MISTAKES_FIGURE: mistakes_figure(mistaken, logits[wrong], labels[wrong], names),
        }
        if ignored := cropped(measured):
            figures[File.IGNORED_FIGURE] = ignored_figure(shown[0], ignored)
        if head.is_linear:
            figures[File.ACTIVATION_FIGURE] = activation_figure(
                model, shown, logits[explained], labels[explained], names
            )
    return {str(name): figure for name, figure in figures.items()}


def _test_images(data: Data, indices: np.ndarray) -> dict[int, np.ndarray]:
    """Images uint8 (H, W, C) of the test split by their indices, which are ascending; they are read in one pass."""
    batches = data.test_split.in_order(indices, batch_size=len(indices)).as_numpy_iterator()
    found = (image for images, _ in batches for image in images)
    return dict(zip(data.test_split.order(indices).tolist(), found, strict=True))


def most_confident_mistakes(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Indices of at most `MISTAKES` misclassified images, those first whose wrong class got most probability."""
    wrong = np.flatnonzero(logits.argmax(axis=1) != labels)
    return wrong[np.argsort(-probabilities(logits[wrong]).max(axis=1, initial=0.0), kind="stable")][:MISTAKES]


def size_figure(measured: Sequence[MeasuredSize]) -> Figure:
    """Accuracy by image height in pixels, refused sizes marked, cropped ones hatched; below it what is seen."""
    heights = [result.size[0] for result in measured]
    figure = Figure(figsize=(WIDTH, 5), layout="constrained")
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    mark_verdicts(top, {result.size[0]: result.verdict for result in measured})
    for mode, (style, color) in zip(Mode, MODE_STYLES, strict=True):
        top.plot(heights, [result.as_is.accuracy(mode) for result in measured], style, color=color, label=mode.label)
    top.set(ylabel="test accuracy", ylim=(0, 1.02))
    top.legend(loc="lower right", fontsize="small")
    bottom.plot(heights, [result.seen_fraction for result in measured], "k.-", label="seen of the map")
    bottom.plot(heights, [result.seen_pixels for result in measured], ".--", color="0.5", label="seen of the image")
    bottom.set(xlabel="image height / px", ylabel="share", ylim=(-0.05, 1.05), xticks=heights)
    bottom.legend(fontsize="x-small")
    return figure


def mark_verdicts(axis: Axes, verdicts: dict[int, Verdict]) -> None:
    """Shades refused sizes and hatches cropped ones, each halfway to its neighbours.

    Args:
        axis: Its x axis is in pixels.
        verdicts: By height in pixels, ascending.
    """
    heights = list(verdicts)
    middles = [(low + high) / 2 for low, high in itertools.pairwise(heights)]
    # The outermost reach as far out as in; a lone size has no neighbour.
    edges = (
        [2 * heights[0] - middles[0], *middles, 2 * heights[-1] - middles[-1]]
        if middles
        else [heights[0] - 1.0, heights[0] + 1.0]
    )
    axis.set_xlim(edges[0], edges[-1])
    styles: dict[Verdict, dict[str, Any]] = {
        Verdict.REFUSES: {"facecolor": "0.88", "edgecolor": "none", "label": "refused"},
        Verdict.CROPS: {
            "facecolor": "none",
            "edgecolor": "0.7",
            "hatch": "///",
            "linewidth": 0,
            "label": "map cropped",
        },
    }
    for index, verdict in enumerate(verdicts.values()):
        if verdict in styles:
            axis.axvspan(edges[index], edges[index + 1], zorder=0, **styles[verdict])
            styles[verdict]["label"] = "_"  # One entry in the legend.


def confusion_figure(labels: np.ndarray, predicted: np.ndarray, class_names: Sequence[str]) -> Figure:
    """How often each true class (rows) was taken for each class (columns), in test images."""
    few = len(class_names) <= MAX_NAMED_CLASSES
    side = min(WIDTH, 2.5 + 0.4 * len(class_names)) if few else WIDTH
    figure = Figure(figsize=(side, side), layout="constrained")
    counts = confusion_matrix(labels, predicted, labels=range(len(class_names)))
    ConfusionMatrixDisplay(counts, display_labels=class_names if few else None).plot(
        ax=figure.subplots(),
        cmap="Blues",
        colorbar=not few,
        include_values=few,
        xticks_rotation="vertical",
        text_kw={"fontsize": "small" if len(class_names) <= 12 else "xx-small"},
    )
    (axis, *_) = figure.axes
    axis.set(xlabel="predicted class", ylabel="true class", title="test images")
    if not few:
        axis.set(xticks=[], yticks=[])
    return figure


def mistakes_figure(
    images: Sequence[np.ndarray], logits: np.ndarray, labels: np.ndarray, class_names: Sequence[str]
) -> Figure:
    """Misclassified images, each with the class it was taken for, its probability, and the true one.

    Args:
        images: uint8 (H, W, C) each.
        logits: (N, K).
        labels: (N,).
        class_names: Of the K classes.
    """
    title = "misclassified, most confident first" if len(images) else "no test image was misclassified"
    return tiles(images, predicted_words(logits, labels, class_names), title)[0]
