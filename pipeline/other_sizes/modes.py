"""Making images of another size, in each mode."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import tensorflow as tf

from pipeline.common.condition import Mode
from pipeline.common.size import Size
from pipeline.data.tf_data import resize


def canvas_places(
    count: int, native: Size | tuple[np.ndarray, np.ndarray], size: Size, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Where each of `count` images of `native` px lies on a canvas of `size` px: its top row and its left column.

    A function of the seed and the sizes alone, so that it is the same for every head and every batch size.
    """
    generator = np.random.default_rng([seed, *size])
    rows, columns = np.maximum(size[0] - native[0], 0), np.maximum(size[1] - native[1], 0)
    return (
        generator.integers(0, rows, count, endpoint=True),
        generator.integers(0, columns, count, endpoint=True),
    )


def lay_on_canvas(images: np.ndarray, size: Size, tops: np.ndarray, lefts: np.ndarray) -> np.ndarray:
    """Puts images on a black canvas at the same scale, or cuts out their centre where the canvas is smaller.

    Args:
        images: uint8 (N, H, W, C).
        size: Height and width of the canvas in pixels.
        tops: Row of the canvas where each image begins, (N,).
        lefts: Column of the canvas where each image begins, (N,).

    Returns:
        uint8 (N, *size, C).
    """
    count, height, width, channels = images.shape
    rows, columns = min(height, size[0]), min(width, size[1])
    top, left = (height - rows) // 2, (width - columns) // 2
    centres = images[:, top : top + rows, left : left + columns]
    canvas = np.zeros((count, *size, channels), np.uint8)
    for index, (y, x) in enumerate(zip(tops, lefts, strict=True)):
        canvas[index, y : y + rows, x : x + columns] = centres[index]
    return canvas


def _resize(images: np.ndarray, size: Size, tops: np.ndarray, lefts: np.ndarray) -> tf.Tensor:
    return resize(images, size)


MAKERS: Mapping[Mode, Callable[[np.ndarray, Size, np.ndarray, np.ndarray], np.ndarray | tf.Tensor]] = {
    Mode.RESIZE: _resize,
    Mode.CANVAS: lay_on_canvas,
}
"""How each mode makes uint8 images (N, *size, C) of uint8 images (N, H, W, C), given their `canvas_places`."""
