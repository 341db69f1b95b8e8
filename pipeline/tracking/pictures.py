"""Drawing images side by side, as the pictures of a run's page do."""

from __future__ import annotations

import math
from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.special import softmax

matplotlib.rcParams["text.parse_math"] = False  # A name with dollar signs is no formula.

WIDTH = 7.0
"""Of the pictures, in inches; wider ones would push MLflow's side bar off the page."""
COLUMNS = 6
"""Images in a row of `tiles`."""
Extent = tuple[float, float, float, float]
"""Left, right, bottom and top of an image in its axes."""


def probabilities(logits: np.ndarray) -> np.ndarray:
    """Of the classes, (N, K), from logits (N, K)."""
    return softmax(logits.astype(np.float64), axis=1)


def show(axis: Axes, image: np.ndarray, extent: Extent | None = None) -> None:
    """Draws an image, uint8 (H, W, C), grey if it has one channel."""
    axis.imshow(image.squeeze(-1) if image.shape[-1] == 1 else image, cmap="gray", vmin=0, vmax=255, extent=extent)


def tiles(images: Sequence[np.ndarray], words: Sequence[str], title: str) -> tuple[Figure, list[Extent]]:
    """Images, uint8 (H, W, C) each, in rows, with two lines of words above each; and where each of them lies."""
    room = 1.4  # The height of an image with its words, where the image has 1.
    rows = max(1, math.ceil(len(images) / COLUMNS))
    figure = Figure(figsize=(WIDTH, WIDTH / COLUMNS * room * rows + 0.3), layout="constrained")
    axis = figure.subplots()  # One for all images: drawing as many as there are takes three times as long.
    axis.axis("off")
    axis.set_title(title, fontsize="medium")
    extents: list[Extent] = []
    for place, (image, said) in enumerate(zip(images, words, strict=True)):
        row, column = divmod(place, COLUMNS)
        middle, bottom = column + 0.5, (row + 1) * room
        height, width = 0.95 * np.array(image.shape[:2]) / max(image.shape[:2])
        extents.append((middle - width / 2, middle + width / 2, bottom, bottom - height))
        show(axis, image, extents[-1])
        axis.text(middle, bottom - height - 0.03, said, fontsize="x-small", ha="center", va="bottom")
    axis.set(xlim=(0, COLUMNS), ylim=(rows * room, 0))
    return figure, extents


def predicted_words(logits: np.ndarray, labels: np.ndarray, class_names: Sequence[str]) -> list[str]:
    """What each image was taken for, with its probability, and what it is; logits are (N, K), labels (N,)."""
    return [
        f"{class_names[shares.argmax()]} {shares.max():.0%}\nis {class_names[label]}"
        for shares, label in zip(probabilities(logits), labels, strict=True)
    ]
