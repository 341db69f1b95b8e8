"""Images moved by maps of their own: flipped, turned, zoomed, sheared and shifted in one interpolation."""

from __future__ import annotations

import tensorflow as tf


def sides(images: tf.Tensor) -> tf.Tensor:
    """Width and height of images (B, H, W, C) in pixels, float32 (2, 1)."""
    _, height, width, _ = tf.unstack(tf.shape(images))
    return tf.cast([[width], [height]], tf.float32)


def moved(images: tf.Tensor, x: tf.Tensor, y: tf.Tensor, shift: tf.Tensor, outside: str) -> tf.Tensor:
    """Each image moved round its middle.

    Args:
        images: float32 (B, H, W, C).
        x: From how far to the right of the middle a pixel of the result comes, for each pixel that it lies to the right
            of the middle and for each below it, (2, B).
        y: The same for how far below the middle, (2, B).
        shift: How far to the right and below besides, in pixels, (2, B); of whole pixels alone, nothing is blurred.
        outside: What comes from beyond the edge: `REFLECT` for the image mirrored, `CONSTANT` for black.

    Returns:
        The same shape; bilinear.
    """
    middle = (sides(images) - 1) / 2
    start_x, start_y = (
        middle[axis] + shift[axis] - tf.reduce_sum(row * middle, axis=0) for axis, row in enumerate((x, y))
    )
    zeros = tf.zeros_like(start_x)
    changed = tf.raw_ops.ImageProjectiveTransformV3(
        images=images,
        transforms=tf.stack([*tf.unstack(x), start_x, *tf.unstack(y), start_y, zeros, zeros], axis=1),
        output_shape=tf.shape(images)[1:3],
        fill_value=0.0,
        interpolation="BILINEAR",
        fill_mode=outside,
    )
    return tf.ensure_shape(changed, images.shape)  # It forgets the number of channels.
