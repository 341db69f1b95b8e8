"""The data of one run: batches to train, validate and test on."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from pipeline.common.size import Size, of_shape
from pipeline.data.facts import DatasetFacts
from pipeline.data.splits import ImageSplit
from pipeline.data.tf_data import PREFETCH_BATCHES, resize, without_autotune


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

    def train(
        self, batch_size: int, epochs: int, heights: Sequence[int] | None = None, done: int = 0
    ) -> tf.data.Dataset:
        """All epochs but those that are `done`, one after the other, as batches of uint8 (B, H, W, C) and int64 (B,).

        With `heights` in pixels, each batch is resized to one of them, drawn by the seed and the batch's number.

        The order of an epoch is a function of the seed and the epoch's number (with `cache=none` also of TensorFlow's
        global seed, which `build_model` sets to the run's), so that every head sees the same batches. An epoch is
        `steps_per_epoch` batches.
        """
        batches = self.train_split.epochs(self.train_indices, batch_size, range(done, epochs), self.seed)
        if heights is None:
            return batches
        sizes = [of_shape(self.facts.image_size, height) for height in heights]
        return _resize_each(batches, sizes, self.facts, self.seed, done * self.steps_per_epoch(batch_size))

    def steps_per_epoch(self, batch_size: int) -> int:
        """Batches in an epoch of `train`."""
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


def _resize_each(
    batches: tf.data.Dataset, sizes: Sequence[Size], facts: DatasetFacts, seed: int, first: int
) -> tf.data.Dataset:
    """Batches of images from number `first` on, each resized to one of `sizes` that seed and number draw."""

    def resized(number: tf.Tensor, batch: tuple[tf.Tensor, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
        images, labels = batch
        drawn = tf.random.stateless_uniform((), tf.stack([seed, number]), maxval=len(sizes), dtype=tf.int32)
        size = tf.gather(tf.constant(sizes), drawn)
        is_native = tf.reduce_all(size == tf.constant(facts.image_size))
        images = tf.cond(is_native, lambda: images, lambda: resize(images, size))
        return tf.ensure_shape(images, (None, None, None, facts.channels)), labels

    chosen = batches.enumerate(first).map(resized, num_parallel_calls=os.cpu_count(), deterministic=True)
    return without_autotune(chosen.prefetch(PREFETCH_BATCHES))
