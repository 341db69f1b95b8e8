"""Splits of a dataset: their images in a fixed order, or in a new one each epoch."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

from pipeline.common.size import Size
from pipeline.data.tf_data import PREFETCH_BATCHES, fetch, without_autotune
from pipeline.data.tfds import read, read_labels, split_digest

SMALL_SPLIT = 16 * 2**20
"""Bytes of images up to which TensorFlow holds a copy of a split. It picks batches without Python: the training on the
embedded digits, of tiny steps, is 1.05 times as fast."""


class ImageSplit(ABC):
    """Images and labels of one split, in a fixed order.

    Attributes:
        name: TFDS name of the split.
        digest: First 32 hexadecimal digits of the SHA-256 of the split's name and files.
        labels: int64 (N,).
        size: Height and width of the images in pixels; of each image, (N,) and (N,), where they vary.
        set_apart: Indices of the images that the dataset itself has for validation, ascending; None where they are
            drawn from all.
    """

    name: str
    digest: str
    labels: np.ndarray
    size: Size | tuple[np.ndarray, np.ndarray]
    set_apart: np.ndarray | None = None

    def __len__(self) -> int:
        """Number of images."""
        return len(self.labels)

    @abstractmethod
    def in_order(self, indices: np.ndarray, batch_size: int) -> tf.data.Dataset:
        """The images at `indices` (ascending), as batches of uint8 (B, H, W, C) and int64 (B,), in a fixed `order`."""

    @abstractmethod
    def epochs(self, indices: np.ndarray, batch_size: int, numbers: range, seed: int) -> tf.data.Dataset:
        """The images at `indices` in each of the epochs with these numbers, in another order each time.

        Batches as of `in_order`.
        """

    def order(self, indices: np.ndarray) -> np.ndarray:
        """`indices` in the order in which `in_order` brings them."""
        return indices

    def batches(self, indices: np.ndarray, batch_size: int) -> int:
        """Batches in an epoch of `epochs`; the last of them may be smaller."""
        return math.ceil(len(indices) / batch_size)


class DecodedSplit(ImageSplit):
    """A split whose images are decoded once, in memory or in memory-mapped files.

    Args:
        name: Of the split.
        digest: See `ImageSplit`.
        images: (N, H, W, C): uint8 pixels, or the feature maps of images, which then stand for them.
        labels: int64 (N,).
    """

    def __init__(self, name: str, digest: str, images: np.ndarray, labels: np.ndarray) -> None:
        self.name, self.digest, self.images, self.labels = name, digest, images, labels
        self.size = images.shape[1:3]

    def in_order(self, indices: np.ndarray, batch_size: int) -> tf.data.Dataset:
        return self._fetch(tf.data.Dataset.from_tensor_slices(indices).batch(batch_size))

    def epochs(self, indices: np.ndarray, batch_size: int, numbers: range, seed: int) -> tf.data.Dataset:
        def epoch(number: tf.Tensor) -> tf.data.Dataset:
            order = tf.random.experimental.stateless_shuffle(indices, seed=tf.stack([seed, number]))
            return tf.data.Dataset.from_tensor_slices(order).batch(batch_size)

        return self._fetch(tf.data.Dataset.range(numbers.start, numbers.stop).flat_map(epoch))

    def _fetch(self, batches_of_indices: tf.data.Dataset) -> tf.data.Dataset:
        if self.images.nbytes > SMALL_SPLIT:
            shape, dtype = self.images.shape[1:], self.images.dtype
            return fetch(batches_of_indices, lambda at: (self.images[at], self.labels[at]), shape, dtype)
        with tf.device("CPU"):
            images, labels = tf.constant(self.images), tf.constant(self.labels)
        picked = batches_of_indices.map(lambda at: (tf.gather(images, at), tf.gather(labels, at)))
        return without_autotune(picked.prefetch(PREFETCH_BATCHES))


class StreamedSplit(ImageSplit):
    """A split that is read and decoded anew on every pass: bounded memory, for datasets that fit nowhere else.

    TensorFlow's global seed takes part in the order; `build_model` sets it to the run's seed.
    """

    def __init__(self, builder: tfds.core.DatasetBuilder, name: str, size: Size, shuffle_buffer: int) -> None:
        self.name, self.digest, self.size = name, split_digest(builder, name), size
        self.labels = read_labels(builder, name)
        self._builder, self._size, self._shuffle_buffer = builder, size, shuffle_buffer

    def in_order(self, indices: np.ndarray, batch_size: int) -> tf.data.Dataset:
        return self._finish(self._images_at(indices).batch(batch_size), math.ceil(len(indices) / batch_size))

    def epochs(self, indices: np.ndarray, batch_size: int, numbers: range, seed: int) -> tf.data.Dataset:
        # `repeat` comes last, so that each epoch is shuffled anew and ends with its own smaller batch.
        shuffled = self._images_at(indices).shuffle(self._shuffle_buffer, seed=seed, reshuffle_each_iteration=True)
        count = math.ceil(len(indices) / batch_size)
        every = self._finish(shuffled.batch(batch_size).repeat(numbers.stop), count * numbers.stop)
        return every.skip(count * numbers.start)  # What was drawn before decides the order.

    def _finish(self, batches: tf.data.Dataset, count: int) -> tf.data.Dataset:
        # Behind a filter TensorFlow cannot count the batches, and Keras would warn that it ran out of data.
        counted = batches.apply(tf.data.experimental.assert_cardinality(count))
        return without_autotune(counted.prefetch(PREFETCH_BATCHES))

    def _images_at(self, indices: np.ndarray) -> tf.data.Dataset:
        wanted = np.zeros(len(self), dtype=bool)
        wanted[indices] = True
        return read(self._builder, self.name, self._size, wanted)
