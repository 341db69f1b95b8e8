"""Pictures of why a model answers as it does: what it ignores of larger images, and which cells speak for a class."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf
from matplotlib.collections import PatchCollection
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from pipeline.common.size import size_text
from pipeline.data.tf_data import resize
from pipeline.heads.verdict import Verdict
from pipeline.models.class_activation import class_activations
from pipeline.other_sizes.measure import MeasuredSize
from pipeline.tracking.pictures import COLUMNS, WIDTH, predicted_words, show, tiles

EXAMPLES = COLUMNS
"""Test images whose class activations are shown, the same for every head; and as many mistakes at most."""
SIZES_IN_A_ROW = 4


def examples(images: int) -> np.ndarray:
    """Indices of the test images that are shown of every head, drawn by a fixed seed, ascending."""
    return np.sort(np.random.default_rng(0).choice(images, min(EXAMPLES, images), replace=False))


def cropped(measured: Sequence[MeasuredSize]) -> list[MeasuredSize]:
    """The sizes at which part of the map, or of the image, cannot change the answer."""
    return [
        result
        for result in measured
        if result.seen is not None and (result.verdict is Verdict.CROPS or result.seen_pixels < 1)
    ]


def ignored_figure(image: np.ndarray, sizes: Sequence[MeasuredSize]) -> Figure:
    """An image, uint8 (H, W, C), resized to each of the `cropped` sizes; what cannot change the answer is hatched."""
    columns = min(SIZES_IN_A_ROW, len(sizes))
    rows = math.ceil(len(sizes) / columns)
    figure = Figure(figsize=(WIDTH * columns / SIZES_IN_A_ROW, 2.4 * rows + 0.3), layout="constrained")
    figure.suptitle("hatched: cannot change the answer", fontsize="medium")
    for place, result in enumerate(sizes):
        assert result.seen is not None
        axis = figure.add_subplot(rows, columns, place + 1)
        axis.axis("off")
        height, width = result.size
        show(axis, resize(image, result.size).numpy(), (0, width, height, 0))
        axis.add_collection(
            PatchCollection(
                [Rectangle(*rectangle) for rectangle in _rectangles(~result.seen)],
                facecolor=(1, 1, 1, 0.5),
                edgecolor="#D55E00",
                linewidth=0,
                hatch="////",
            )
        )
        axis.set_title(
            f"{size_text(result.size)} px\n{1 - result.seen_fraction:.0%} of the map ignored\n"
            f"{1 - result.seen_pixels:.0%} of the image ignored",
            fontsize="small",
        )
    return figure


def _rectangles(mask: np.ndarray) -> list[tuple[tuple[int, int], int, int]]:
    """Rectangles that cover what is true in a mask (H, W) and nothing else: ((left, top), width, height)."""
    changes = np.flatnonzero(np.any(mask[1:] != mask[:-1], axis=1)) + 1
    found = []
    for top, below in itertools.pairwise([0, *changes.tolist(), len(mask)]):
        edges = np.flatnonzero(np.diff(np.pad(mask[top].astype(np.int8), 1)))
        found += [((left, top), right - left, below - top) for left, right in edges.reshape(-1, 2).tolist()]
    return found


def activation_figure(
    model: keras.Model,
    images: Sequence[np.ndarray],
    logits: np.ndarray,
    labels: np.ndarray,
    class_names: Sequence[str],
) -> Figure:
    """Images under what each cell of their feature map gives to the logit of the predicted class.

    Args:
        model: As `build_model` made it, with a head that is linear (`Head.is_linear`).
        images: uint8 (H, W, C) each.
        logits: Of the images, (N, K).
        labels: Theirs, (N,).
        class_names: Of the K classes.
    """
    figure, extents = tiles(
        images,
        predicted_words(logits, labels, class_names),
        "Cells of the map that speak for the predicted class: red; against it: blue\n"
        f"{min(EXAMPLES, len(images))} images that are the same for every head, then the most confident mistakes",
    )
    (axis,) = figure.axes
    for given, extent in zip(_activations(model, images, logits.argmax(axis=1)), extents, strict=True):
        most = np.abs(given).max() or 1.0
        # The image shows through where a cell gives little.
        alpha = 0.6 * np.abs(given) / most
        axis.imshow(given, cmap="RdBu_r", vmin=-most, vmax=most, alpha=alpha, interpolation="nearest", extent=extent)
    return figure


def _activations(model: keras.Model, images: Sequence[np.ndarray], classes: np.ndarray) -> list[np.ndarray]:
    """What each cell of each image's map gives to the logit of a class, (h, w) each; images of one size together."""
    backbone, of_maps = model.get_layer("backbone"), class_activations(model.get_layer("head"))
    found: dict[int, np.ndarray] = {}
    for shape in {image.shape for image in images}:
        members = [index for index, image in enumerate(images) if image.shape == shape]
        maps = backbone(np.stack([images[index] for index in members]), training=False)
        given = of_maps(tf.cast(maps, tf.float32), tf.constant(classes[members], tf.int64)).numpy()
        found |= dict(zip(members, given, strict=True))
    return [found[index] for index in range(len(images))]
