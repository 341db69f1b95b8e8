"""Training images changed at random, a batch at a time.

Of stateless operations, and not of Keras's preprocessing layers: their seeds are counters, so that a training that goes
on would draw other numbers, and so would two heads of which one has drawn a dropout mask more. And each of these layers
interpolates the image anew; here flip, shift, turn and zoom are one map.
"""

from __future__ import annotations

import math

import tensorflow as tf

from pipeline.training.affine import moved, sides
from pipeline.training.rand_augment import rand_augment
from pipeline.training.settings import Augmentation

ERASED_AREA = (0.02, 0.33)
"""Smallest and largest share of an image that is erased."""
ERASED_ASPECT = (0.3, 1 / 0.3)
"""Smallest and largest height of an erased rectangle over its width, for a square image. Both as in Zhong et al.,
"Random Erasing Data Augmentation", 2020, section 4.1."""


def augment(
    images: tf.Tensor, labels: tf.Tensor, settings: Augmentation, seed: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """One batch of images, changed as the settings say, and its labels, which change if images are mixed.

    Args:
        images: uint8 (B, H, W, C), with C known when this is traced.
        labels: int64 (B,), or float32 (B, K) with the share of each class, as mixing wants them.
        settings: What is changed, and how much.
        seed: Two whole numbers (2,); what is drawn for an image is a function of these and of its place in the batch.

    Returns:
        The same types and shapes.
    """
    moving, erasing, mixing = tf.unstack(tf.random.split(seed, 3))
    changed = tf.cast(images, tf.float32)
    if settings.moves:
        changed = _moved(changed, settings, moving)
    if settings.operations > 0:
        # Folded in and not split off, so that the others' draws are the same with and without it.
        operating = tf.random.fold_in(seed, 1)
        changed = rand_augment(changed, settings.operations, settings.magnitude, operating)
    if settings.erase > 0:
        changed = _erased(changed, settings.erase, erasing)
    if settings.mixes:
        changed, labels = _mixed(changed, labels, settings, mixing)
    return tf.ensure_shape(tf.cast(tf.round(changed), tf.uint8), images.shape), labels


def _uniform(seed: tf.Tensor, shape: list[tf.Tensor | int], low: float = 0.0, high: float = 1.0) -> tf.Tensor:
    return tf.random.stateless_uniform(shape, seed, low, high)


def _moved(images: tf.Tensor, settings: Augmentation, seed: tf.Tensor) -> tf.Tensor:
    """Each image flipped, turned, zoomed and shifted, each by another draw."""
    flip, turn, zoom, *shift = tf.unstack(_uniform(seed, [5, tf.shape(images)[0]], -1, 1))
    mirror = tf.where(flip < 0, -1.0, 1.0) if settings.flip else 1.0
    angle, scale = turn * math.radians(settings.rotate), 1 + zoom * settings.zoom
    x = tf.stack([mirror * scale * tf.cos(angle), -scale * tf.sin(angle)])
    y = tf.stack([mirror * scale * tf.sin(angle), scale * tf.cos(angle)])
    # Whole pixels, so that shifting alone blurs nothing.
    return moved(images, x, y, tf.round(tf.stack(shift) * settings.translate * sides(images)), "REFLECT")


def _erased(images: tf.Tensor, share: float, seed: tf.Tensor) -> tf.Tensor:
    """So many of the images with a rectangle of their mean."""
    drawing, placing = tf.unstack(tf.random.split(seed))
    chosen, area, aspect = tf.unstack(_uniform(drawing, [3, tf.shape(images)[0]]))
    smallest, largest = ERASED_AREA
    area = tf.where(chosen < share, smallest + area * (largest - smallest), 0.0)
    flat, tall = map(math.log, ERASED_ASPECT)
    aspect = tf.exp(flat + aspect * (tall - flat))
    erased = _rectangles(images, tf.sqrt(area * aspect), tf.sqrt(area / aspect), placing)
    return images + erased * (tf.reduce_mean(images, axis=(1, 2), keepdims=True) - images)


def _mixed(
    images: tf.Tensor, labels: tf.Tensor, settings: Augmentation, seed: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Each image mixed with the next one of the batch, whose order is random already; labels by share of the pixels.

    Sources: Zhang et al., "mixup: Beyond Empirical Risk Minimization", 2018; Yun et al., "CutMix", 2019.
    """
    choosing, mixing, cutting, placing = tf.unstack(tf.random.split(seed, 4))
    own = _own_share(settings.mixup, mixing, images)
    if settings.cutmix > 0:
        side = tf.sqrt(1 - _own_share(settings.cutmix, cutting, images)[:, 0, 0, 0])
        uncut = 1 - _rectangles(images, side, side, placing)
        mixes = _uniform(choosing, [tf.shape(images)[0], 1, 1, 1]) < (0.5 if settings.mixup > 0 else 0.0)
        own = tf.where(mixes, own, uncut)
    images = own * images + (1 - own) * tf.roll(images, -1, axis=0)
    share = tf.reduce_mean(own, axis=(1, 2))
    return images, share * labels + (1 - share) * tf.roll(labels, -1, axis=0)


def _own_share(alpha: float, seed: tf.Tensor, images: tf.Tensor) -> tf.Tensor:
    """Drawn from Beta(α, α), (B, 1, 1, 1); 1 for α = 0."""
    if alpha == 0:
        return tf.ones([tf.shape(images)[0], 1, 1, 1])
    # By its definition: of two gamma variables, the share of the first. Both may be too small for a float.
    one, other = tf.unstack(tf.random.stateless_gamma([2, tf.shape(images)[0], 1, 1, 1], seed, alpha))
    return tf.math.divide_no_nan(one, one + other)


def _rectangles(images: tf.Tensor, heights: tf.Tensor, widths: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """1 within a rectangle of each image, (B, H, W, 1), and 0 elsewhere.

    Args:
        images: (B, H, W, C).
        heights: As shares of the images' height, (B,).
        widths: As shares of their width, (B,).
        seed: Draws the place, of which all are equally likely.
    """

    def inside(axis: int, share: tf.Tensor, place: tf.Tensor) -> tf.Tensor:
        side = tf.cast(tf.shape(images)[axis], tf.float32)
        length = tf.minimum(tf.round(share * side), side)
        start = tf.floor(place * (side - length + 1))
        at = tf.range(side)
        return (at >= start[:, None]) & (at < (start + length)[:, None])

    places = tf.unstack(_uniform(seed, [2, tf.shape(images)[0]]))
    rows, columns = inside(1, heights, places[0]), inside(2, widths, places[1])
    return tf.cast(rows[:, :, None, None] & columns[:, None, :, None], tf.float32)
