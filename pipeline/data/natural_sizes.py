"""Images of natural, varying sizes: batches of one size each, and what is refused before training.

Nothing is padded: a mean over a padded map would be biased, and global average pooling takes no mask.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
import psutil
import tensorflow as tf
import tensorflow_datasets as tfds

from pipeline.common.errors import require
from pipeline.common.size import Size
from pipeline.data.splits import ImageSplit
from pipeline.data.tf_data import fetch, resize
from pipeline.data.tfds import every_example, read, split_digest


class NaturalSplit(ImageSplit):
    """A split of images of varying sizes, decoded once, in memory.

    Args:
        name: Of the split.
        digest: See `ImageSplit`.
        images: uint8 (H, W, C) each.
        labels: int64 (N,).
        files: What each image is called in messages.
        reference: Height and width of an image of which a whole batch is predicted at a time; of larger ones, as many
            as have no more pixels together.
    """

    size: tuple[np.ndarray, np.ndarray]

    def __init__(
        self,
        name: str,
        digest: str,
        images: Sequence[np.ndarray],
        labels: np.ndarray,
        files: Sequence[str],
        reference: Size,
    ) -> None:
        self.name, self.digest, self.images, self.labels, self.files = name, digest, images, labels, files
        sizes = np.array([image.shape[:2] for image in images])
        self.size = sizes[:, 0], sizes[:, 1]
        self.distinct, size_of = np.unique(sizes, axis=0, return_inverse=True)
        """The sizes that there are, (S, 2), ascending."""
        self._size_of, self._reference = size_of.reshape(-1), reference

    def order(self, indices: np.ndarray) -> np.ndarray:
        return indices[np.argsort(self._size_of[indices], kind="stable")]

    def batches(self, indices: np.ndarray, batch_size: int) -> int:
        """Σ ⌈images of a size / batch_size⌉ over the sizes."""
        return int(np.sum(-(-np.bincount(self._size_of[indices]) // batch_size)))

    def in_order(self, indices: np.ndarray, batch_size: int) -> tf.data.Dataset:
        lengths: list[int] = []
        for size, count in zip(*np.unique(self._size_of[indices], return_counts=True), strict=True):
            height, width = self.distinct[size]
            most = max(1, min(batch_size, batch_size * self._reference[0] * self._reference[1] // (height * width)))
            lengths += [min(most, count - start) for start in range(0, count, most)]
        batches = tf.RaggedTensor.from_row_lengths(self.order(indices), np.array(lengths, np.int64))
        return self._fetch(tf.data.Dataset.from_tensor_slices(batches))

    def epochs(self, indices: np.ndarray, batch_size: int, numbers: range, seed: int) -> tf.data.Dataset:
        size_of = tf.constant(self._size_of)

        def epoch(number: tf.Tensor) -> tf.data.Dataset:
            def shuffled(values: tf.Tensor) -> tf.Tensor:
                return tf.random.experimental.stateless_shuffle(values, seed=tf.stack([seed, number]))

            batches = tf.data.Dataset.from_tensor_slices(shuffled(indices)).group_by_window(
                key_func=lambda index: size_of[index],
                reduce_func=lambda _, window: window.batch(batch_size),
                window_size=batch_size,
            )
            # Now the batches too: what is left over of each size would come last in every epoch. Not with
            # `Dataset.shuffle`, in whose order TensorFlow's global seed takes part.
            whole_epoch = batches.ragged_batch(len(indices))
            return whole_epoch.map(lambda rows: tf.gather(rows, shuffled(tf.range(rows.nrows())))).unbatch()

        return self._fetch(tf.data.Dataset.range(numbers.start, numbers.stop).flat_map(epoch))

    def _fetch(self, batches_of_indices: tf.data.Dataset) -> tf.data.Dataset:
        def read(indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            return np.stack([self.images[index] for index in indices]), self.labels[indices]

        return fetch(batches_of_indices, read, (None, None, self.images[0].shape[-1]))


@functools.lru_cache(maxsize=2)  # The two splits of one dataset: every run of a study in this process shares them.
def decode_natural(builder: tfds.core.DatasetBuilder, split: str, reference: Size, step: int) -> NaturalSplit:
    """Decodes a split of TFDS; for the arguments see `NaturalSplit` and `to_step`.

    Raises:
        UserError: The prepared files are damaged, or the images do not fit into memory.
    """
    count, free = int(builder.info.splits[split].num_examples), psutil.virtual_memory().available
    images: list[np.ndarray] = []
    labels = np.empty(count, np.int64)
    examples = read(builder, split, None).map(lambda image, label: (to_step(image, step), label))
    for image, label in every_example(builder, split, examples):
        labels[len(images)] = label
        images.append(image)
        free -= image.nbytes
        check_room(free, split, len(images), count)
    files = [f"image {index} of {split}" for index in range(count)]
    return NaturalSplit(split, split_digest(builder, split), images, labels, files, reference)


def to_step(image: tf.Tensor, step: int) -> tf.Tensor:
    """Resizes an image (H, W, C) so that both sides are the nearest multiples of `step` px, at least one step."""
    if step == 1:
        return image
    steps = (2 * tf.shape(image)[:2] + step) // (2 * step)  # Halves go up.
    return resize(image, step * tf.maximum(steps, 1))


def check_room(free: int, split: str, done: int, count: int) -> None:
    """Raises `ConfigError` if no memory is left after `done` of the `count` images of a split."""
    require(
        free > 0,
        "dataset.cache",
        "memory",
        f"the images of {split} fill what memory is free after {done} of {count}",
        "Use dataset.native_size=false and a small dataset.image_size, or fewer images.",
    )


def check_count(train: ImageSplit, test: ImageSplit, max_sizes: int) -> None:
    """Raises `ConfigError` if the images of both splits together have more than `max_sizes` sizes."""
    sizes = np.unique(np.concatenate([np.stack(split.size, axis=1) for split in (train, test)]), axis=0)

    def left_by(step: int) -> int:
        return len(np.unique(np.maximum((2 * sizes + step) // (2 * step), 1), axis=0))

    step = 16
    while left_by(step) > max_sizes:
        step *= 2
    require(
        len(sizes) <= max_sizes,
        "dataset.max_sizes",
        max_sizes,
        f"the images have {len(sizes)} sizes, and each size makes batches of its own",
        f"Use dataset.size_step={step}, which leaves {left_by(step)}, or a larger dataset.max_sizes.",
    )
