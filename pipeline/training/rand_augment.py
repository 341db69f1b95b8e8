"""RandAugment.

Source: Cubuk et al., "RandAugment: Practical Automated Data Augmentation with a Reduced Search Space", 2020.

Each image gets operations of its own. Keras's layer of this name draws one for the whole batch, computes all of them
for all images, and takes its numbers from a counter, so that a training that goes on would draw others.
"""

from __future__ import annotations

import math

import tensorflow as tf

from pipeline.training.affine import moved, sides

LARGEST = 30
"""Of the magnitude. The strengths at it are those of the paper's code and of torchvision."""
OPERATIONS = (
    *("identity", "shear_x", "shear_y", "translate_x", "translate_y", "rotate"),
    *("brightness", "color", "contrast", "sharpness", "posterize", "solarize", "autocontrast", "equalize"),
)
"""All equally likely."""
SHEAR, TURN, SHIFT, BLEND, BITS = 0.3, 30.0, 150 / 331, 0.9, 4
"""At the largest magnitude: of a side, degrees, of a side, off 1, and bits that posterize takes away."""
GREY = (0.299, 0.587, 0.114)
"""Shares of red, green and blue (ITU-R BT.601)."""


def rand_augment(images: tf.Tensor, operations: int, magnitude: float, seed: tf.Tensor) -> tf.Tensor:
    """Each image changed by so many operations, one after the other, each drawn for it alone.

    Args:
        images: float32 (B, H, W, C), from 0 to 255, with C known when this is traced.
        operations: How many; each of `OPERATIONS` is equally likely each time.
        magnitude: How strong, 0 to `LARGEST`. Which way each goes that has two is drawn.
        seed: Two whole numbers (2,).
    """
    for one in tf.unstack(tf.random.split(seed, operations)):
        choosing, turning = tf.unstack(tf.random.split(one))
        count = tf.shape(images)[:1]
        chosen = tf.random.stateless_uniform(count, choosing, 0, len(OPERATIONS), tf.int32)
        sign = tf.where(tf.random.stateless_uniform(count, turning) < 0.5, -1.0, 1.0)
        images = apply(images, chosen, sign, magnitude / LARGEST)
    return images


def apply(images: tf.Tensor, chosen: tf.Tensor, sign: tf.Tensor, strength: float) -> tf.Tensor:
    """Each image by the operation chosen for it.

    Args:
        images: float32 (B, H, W, C), from 0 to 255.
        chosen: Places in `OPERATIONS`, int32 (B,).
        sign: 1 or -1, float32 (B,), for those operations that go two ways.
        strength: 0 to 1.
    """

    def by(name: str) -> tf.Tensor:
        return chosen == OPERATIONS.index(name)

    def each(values: tf.Tensor) -> tf.Tensor:
        return values[:, None, None, None]

    changed = _moved(images, {name: by(name) for name in OPERATIONS[1:6]}, sign * strength)
    grey = _grey(images)
    base = tf.where(each(by("color")), grey, images)
    base = tf.where(each(by("brightness")), 0.0, base)
    base = tf.where(each(by("contrast")), tf.round(tf.reduce_mean(grey, axis=(1, 2), keepdims=True)), base)
    base = tf.where(each(by("sharpness")), _smoothed(images), base)
    blended = tf.clip_by_value(base + each(1 + sign * strength * BLEND) * (images - base), 0.0, 255.0)
    # Where none of the four was chosen, the base is the image, but for what the line above rounds.
    changed = tf.where(each(by("brightness") | by("color") | by("contrast") | by("sharpness")), blended, changed)
    whole = tf.round(images)
    step = 2.0 ** round(strength * BITS)
    changed = tf.where(each(by("posterize")), tf.floor(whole / step) * step, changed)
    threshold = 255.0 * (1 - strength)
    changed = tf.where(each(by("solarize")), tf.where(whole >= threshold, 255 - whole, whole), changed)
    changed = tf.where(each(by("autocontrast")), _stretched(whole), changed)
    changed = tf.where(each(by("equalize")), _equalized(whole), changed)
    return tf.ensure_shape(changed, images.shape)  # Equalizing forgets the number of channels.


def _moved(images: tf.Tensor, chosen: dict[str, tf.Tensor], amount: tf.Tensor) -> tf.Tensor:
    """Sheared, shifted or turned round the middle; what comes from outside is black."""

    def of(name: str, largest: float | tf.Tensor) -> tf.Tensor:
        return tf.where(chosen[name], amount * largest, 0.0)

    angle = of("rotate", math.radians(TURN))
    x = tf.stack([tf.cos(angle), of("shear_x", SHEAR) - tf.sin(angle)])
    y = tf.stack([of("shear_y", SHEAR) + tf.sin(angle), tf.cos(angle)])
    width, height = tf.unstack(SHIFT * sides(images))
    return moved(images, x, y, tf.round(tf.stack([of("translate_x", width), of("translate_y", height)])), "CONSTANT")


def _grey(images: tf.Tensor) -> tf.Tensor:
    """(B, H, W, 1); an image of other channels than red, green and blue by their mean."""
    if images.shape[-1] == 3:
        return tf.reduce_sum(images * tf.constant(GREY), axis=-1, keepdims=True)
    return tf.reduce_mean(images, axis=-1, keepdims=True)


def _smoothed(images: tf.Tensor) -> tf.Tensor:
    """Each pixel by its neighbours', its own counting five times; pixels at the edge as they are (Pillow's SMOOTH)."""
    kernel = tf.constant([[1.0, 1, 1], [1, 5, 1], [1, 1, 1]]) / 13
    channels = images.shape[-1]
    inside = tf.nn.depthwise_conv2d(images, tf.tile(kernel[:, :, None, None], [1, 1, channels, 1]), [1] * 4, "VALID")
    rows, columns = tf.shape(images)[1], tf.shape(images)[2]
    row, column = tf.range(rows), tf.range(columns)
    edge = ((row == 0) | (row == rows - 1))[:, None] | ((column == 0) | (column == columns - 1))
    return tf.where(edge[None, :, :, None], images, tf.pad(inside, [[0, 0], [1, 1], [1, 1], [0, 0]]))


def _stretched(images: tf.Tensor) -> tf.Tensor:
    """Each channel from its darkest to its brightest value spread over 0 to 255; one of a single value as it is."""
    low, high = (reduce(images, axis=(1, 2), keepdims=True) for reduce in (tf.reduce_min, tf.reduce_max))
    spread = tf.round((images - low) * tf.math.divide_no_nan(255.0, high - low))
    return tf.where(high > low, spread, images)


def _equalized(images: tf.Tensor) -> tf.Tensor:
    """Each channel with its values as evenly frequent as can be (Pillow's `ImageOps.equalize`)."""
    shape = tf.shape(images)
    channels = tf.reshape(tf.transpose(images, [0, 3, 1, 2]), [shape[0] * shape[3], shape[1] * shape[2]])
    values = tf.cast(channels, tf.int32)
    counts = tf.math.bincount(values, minlength=256, maxlength=256, axis=-1)
    last = tf.gather(counts, tf.reduce_max(values, axis=1), batch_dims=1)
    step = ((shape[1] * shape[2] - last) // 255)[:, None]
    table = tf.minimum((step // 2 + tf.cumsum(counts, axis=1, exclusive=True)) // tf.maximum(step, 1), 255)
    equal = tf.gather(tf.where(step > 0, table, tf.range(256)), values, batch_dims=1)
    return tf.transpose(tf.reshape(tf.cast(equal, tf.float32), tf.gather(shape, [0, 3, 1, 2])), [0, 2, 3, 1])
