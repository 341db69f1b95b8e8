"""The data of one run: batches to train, validate and test on."""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from pipeline.common.size import of_shape
from pipeline.data.facts import DatasetFacts
from pipeline.data.splits import ImageSplit
from pipeline.data.tf_data import PREFETCH_BATCHES, resize, without_autotune


@dataclass(frozen=True)
class SizedSteps:
    """The size of each step of a training.

    Attributes:
        heights: In pixels, (epochs, steps of an epoch).
        images: How many images, the same shape; each epoch's sum is the number of training images.
    """

    heights: np.ndarray
    images: np.ndarray


@dataclass(frozen=True)
class Data:
    """The data of one run.

    Attributes:
        facts: What the dataset is.
        train_split: The whole training split.
        train_indices: Which of its images are trained on.
        validation_indices: Which are held out to choose weights by.
        test_split: The test split.
        seed: Decides the order of the training images.
    """

    facts: DatasetFacts
    train_split: ImageSplit
    train_indices: np.ndarray
    validation_indices: np.ndarray
    test_split: ImageSplit
    seed: int

    def train(self, batch_size: int, epochs: int, sized: SizedSteps | None = None, done: int = 0) -> tf.data.Dataset:
        """All epochs but those that are `done`, one after the other, as batches of uint8 (B, H, W, C) and int64 (B,).

        With `sized`, each batch has as many images as that says, and is resized to the height that it says.

        The order of an epoch is a function of the seed and the epoch's number (with `cache=none` also of TensorFlow's
        global seed, which `build_model` sets to the run's), so that every head sees the same batches. An epoch is
        `steps_per_epoch` batches, or as many as `sized` has.
        """
        batches = self.train_split.epochs(self.train_indices, batch_size, range(done, epochs), self.seed)
        return batches if sized is None else _sized(batches, sized, self.facts, done)

    def steps_per_epoch(self, batch_size: int) -> int:
        """Batches in an epoch of `train`, if all have one size."""
        return self.train_split.batches(self.train_indices, batch_size)

    def validation(self, batch_size: int) -> tf.data.Dataset:
        """The held-out images in a fixed order, as batches like those of `train`."""
        return self.train_split.in_order(self.validation_indices, batch_size)

    def test(self, batch_size: int, limit: int | None = None) -> tf.data.Dataset:
        """The test split, or its first `limit` images, in the order `test_order`, as batches like those of `train`."""
        return self.test_split.in_order(np.arange(len(self.test_split))[:limit], batch_size)

    def test_order(self, limit: int | None = None) -> np.ndarray:
        """Index in the test split of each image of `test`, (N,); ascending where all images have one size."""
        return self.test_split.order(np.arange(len(self.test_split))[:limit])


def _sized(batches: tf.data.Dataset, sized: SizedSteps, facts: DatasetFacts, done: int) -> tf.data.Dataset:
    """Batches of the epochs after those that are `done`, cut and resized as `sized` says."""
    heights, images_of = sized.heights[done:].reshape(-1), sized.images[done:].reshape(-1)
    sizes = tf.constant([of_shape(facts.image_size, int(height)) for height in heights], tf.int32, (len(heights), 2))

    def resized(batch: tuple[tf.Tensor, tf.Tensor], size: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        images, labels = batch
        is_native = tf.reduce_all(size == tf.constant(facts.image_size))
        images = tf.cond(is_native, lambda: images, lambda: resize(images, size))
        return tf.ensure_shape(images, (None, None, None, facts.channels)), labels

    chosen = tf.data.Dataset.zip(batches.rebatch(images_of), tf.data.Dataset.from_tensor_slices(sizes))
    mapped = chosen.map(resized, num_parallel_calls=os.cpu_count(), deterministic=True)
    # Behind a rebatch TensorFlow cannot count the batches, and Keras would warn that it ran out of data.
    counted = mapped.apply(tf.data.experimental.assert_cardinality(len(heights)))
    return without_autotune(counted.prefetch(PREFETCH_BATCHES))
