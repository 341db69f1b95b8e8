"""Which cells of a feature map count, by gradient."""

from __future__ import annotations

import math

import keras
import numpy as np
import tensorflow as tf

from pipeline.models.graph import linear_twin

PASS_VALUES = 2**25
"""Numbers in the feature maps whose gradients are taken together, at most, unless a single map has more: 134 MB."""


def seen_cells(head: keras.Model, map_shape: tuple[int, int, int]) -> np.ndarray:
    """Which cells of feature maps (H, W, C) can change the logits: bool (H, W).

    By gradient of what the logits are without activations: a unit that happens to be off says nothing about which cells
    it looks at. It is taken of a map of equal cells: a maximum has a gradient at all cells that are largest.

    If the other cells then do change something, the head picks some cells in another way, and each of these has its
    turn at being its channel's largest. Memory does not grow with their number, see `PASS_VALUES`.
    """
    generator = np.random.default_rng(0)
    head = linear_twin(head)
    equal = np.broadcast_to(1 + generator.random(map_shape[-1], np.float32), map_shape)
    seen = _with_gradient(head, equal[None])
    others = np.argwhere(~seen)
    if len(others) and not _change_nothing(head, equal, ~seen, generator):
        maps = max(1, PASS_VALUES // math.prod(map_shape))
        for start in range(0, len(others), turns := maps * map_shape[-1]):
            seen |= _with_gradient(head, _with_peaks(equal, others[start : start + turns]))
    return seen


def _with_gradient(head: keras.Model, maps: np.ndarray) -> np.ndarray:
    """Which cells of any of the maps (N, H, W, C) have a gradient: bool (H, W)."""
    feature_maps = tf.constant(maps)
    with tf.GradientTape() as tape:
        tape.watch(feature_maps)
        outputs = head(feature_maps, training=False)
        # Random signs and weights, so that a cell's gradients do not cancel over the outputs.
        total = tf.reduce_sum(outputs * tf.random.stateless_normal(outputs.shape, seed=(0, 0)))
    return np.any(tape.gradient(total, feature_maps).numpy() != 0, axis=(0, 3))


def _change_nothing(head: keras.Model, plain: np.ndarray, cells: np.ndarray, generator: np.random.Generator) -> bool:
    """Whether a map (H, W, C) gives the same when `cells`, bool (H, W), hold much more, and much less."""
    # One at a time: in a batch, equal maps need not be computed in the same order.
    before = head(plain[None], training=False).numpy()
    for sign in (1, -1):
        other = sign * 9 * (1 + generator.random(plain.shape, np.float32))
        changed = np.where(cells[:, :, None], other, plain)
        if not np.array_equal(head(changed[None], training=False).numpy(), before):
            return False
    return True


def _with_peaks(plain: np.ndarray, cells: np.ndarray) -> np.ndarray:
    """Copies of a map (H, W, C), as few as there have to be for each of the cells (N, 2) to stand out in a channel."""
    channels = plain.shape[-1]
    peaked = np.repeat(plain[None], math.ceil(len(cells) / channels), axis=0)
    turn = np.arange(len(cells))
    peaked[turn // channels, cells[:, 0], cells[:, 1], turn % channels] = 2 * plain.max() + 1
    return peaked
