"""Which cells of a feature map count, by gradient."""

from __future__ import annotations

import math

import keras
import numpy as np
import psutil
import tensorflow as tf

from pipeline.common.errors import UserError
from pipeline.common.size import Size, size_text

GRADIENT_IMAGES = 16
"""Feature maps whose gradients are taken together; a cell counts as seen if it matters for any of them."""


def check_memory(map_shape: tuple[int, int, int], size: Size) -> None:
    """Raises `UserError` if `seen_fraction_of` has no room for maps (H, W, C) of images of `size` px."""
    rows, columns, channels = map_shape
    maps = max(GRADIENT_IMAGES, math.ceil(rows * columns / channels))
    # Twice what it is given, their gradients, and what the head makes of them on the way.
    needed, available = 4 * maps * math.prod(map_shape) * 4, psutil.virtual_memory().available
    if needed > available:
        raise UserError(
            f"Images of {size_text(size)} px are too large: to see which cells of their {size_text((rows, columns))} "
            f"feature map count takes {needed / 1e9:,.1f} GB, {available / 1e9:.1f} GB are free. Use smaller sizes in "
            "dataset.image_size, training.sizes, size_probe.sizes or size_probe.scales, or more strides."
        )


def seen_fraction_of(head: keras.Model, maps: np.ndarray) -> float:
    """Share of the cells of feature maps (N, H, W, C) that can change the logits.

    By gradient of what the first Dense layer makes of them, which without hidden layers is the logits. It is taken
    before any ReLU: a unit that happens to be off says nothing about which cells it looks at. Each cell has its turn at
    being a channel's largest, because a maximum has a gradient at one cell only.
    """
    dense = next(layer for layer in head.layers if isinstance(layer, keras.layers.Dense))
    collapse = keras.Model(head.input, dense.input)
    feature_maps = tf.constant(_with_peaks(maps))
    with tf.GradientTape() as tape:
        tape.watch(feature_maps)
        outputs = tf.matmul(tf.cast(collapse(feature_maps, training=False), tf.float32), dense.kernel)
        # Random signs and weights, so that a cell's gradients do not cancel over the outputs.
        total = tf.reduce_sum(outputs * tf.random.stateless_normal(outputs.shape, seed=(0, 0)))
    gradient = tape.gradient(total, feature_maps)
    return float(np.mean(np.any(gradient.numpy() != 0, axis=(0, 3))))


def _with_peaks(maps: np.ndarray) -> np.ndarray:
    """Feature maps (N, H, W, C), repeated until each of the H·W cells stands out in one channel of one map."""
    count, rows, columns, channels = maps.shape
    cell = np.arange(rows * columns)
    peaked = maps[np.arange(max(count, math.ceil(len(cell) / channels))) % count]
    peaked[cell // channels, cell // columns, cell % columns, cell % channels] = 2 * abs(maps).max() + 1
    return peaked
