"""TFDS to tf.data: what a dataset is, its splits, sizes, cache and order.

Autotuning is off in every pipeline: with it, destroying an iterator waits for the autotuner's sleeping thread, whose
naps double, so that an epoch of 3.8 s takes 5.1 s. Parallelism and prefetching are given explicitly instead.
"""

from __future__ import annotations

import errno
import functools
import hashlib
import logging
import math
import os
import re
import shutil
import sys
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from omegaconf import MISSING

from pipeline import storage
from pipeline.errors import ConfigError, UserError, class_and_first_line, is_side, require, require_at_least, suggestion
from pipeline.heads import Size, of_shape, size_text

if TYPE_CHECKING:
    import tensorflow as tf
    import tensorflow_datasets as tfds

log = logging.getLogger("pipeline")

DECODE_BATCH = 1024
"""Images decoded at a time while a cache is filled."""
PREFETCH_BATCHES = 4
SMALL_SPLIT = 16 * 2**20
"""Bytes of images up to which TensorFlow holds a copy of a split. It picks batches without Python: the training on the
embedded digits, of tiny steps, is 1.05 times as fast."""
NATURAL = "natural, about "
"""Before the reference size, where images keep their natural sizes."""


class Cache(Enum):
    """Where decoded images wait between epochs."""

    memory = "memory"
    disk = "disk"
    none = "none"


@dataclass(frozen=True)
class DatasetFacts:
    """What is known of a dataset before any image is read.

    Attributes:
        name: TFDS name.
        version: TFDS version.
        image_shape: (H, W, C) that the model is trained on, after any resizing; with natural sizes, the reference at
            which cost is stated and around which other sizes are probed.
        class_names: Names of the K classes, by label.
        natural: Whether the images keep their natural sizes.
    """

    name: str
    version: str
    image_shape: tuple[int, int, int]
    class_names: tuple[str, ...]
    natural: bool = False

    @property
    def image_size(self) -> Size:
        return self.image_shape[:2]

    @property
    def trained_at(self) -> str:
        """Size of the training images in pixels: `28×28`, or `natural, about 28×28`."""
        return (NATURAL if self.natural else "") + size_text(self.image_size)

    @property
    def channels(self) -> int:
        return self.image_shape[2]

    @property
    def classes(self) -> int:
        return len(self.class_names)


@dataclass
class Dataset:
    """A TFDS image-classification dataset.

    Attributes:
        name: TFDS name; a builder's configuration follows after a slash.
        version: TFDS version such as `3.0.1`; null for the newest.
        train_split: Split to train on, minus the validation part.
        test_split: Split to report on; it never chooses anything.
        validation_fraction: Share of the training split that is held out, drawn by the run's seed.
        image_size: [height, width] in pixels to resize every image to; null keeps the dataset's own size.
        native_size: Train and test on images at their natural, varying sizes, each batch of one size. `image_size` is
            then only the reference at which cost is stated and around which other sizes are probed.
        max_sizes: Most distinct sizes that images may have with `native_size`: each size makes batches of its own.
        size_step: With `native_size`, both sides are brought to the nearest multiple of so many pixels; 1 for none.
        cache: Decoded images on `disk` (in `output_dir`, memory-mapped, shared by all its runs), in `memory` of each
            process (images of natural size always), or `none` (decoded anew each epoch).
        shuffle_buffer: Images in the shuffle buffer with `cache=none`; the caches shuffle all of them.
        data_dir: TFDS data directory; null for TFDS's own default.
    """

    name: str = MISSING
    version: str | None = None
    train_split: str = "train"
    test_split: str = "test"
    validation_fraction: float = 0.1
    image_size: list[int] | None = None
    native_size: bool = False
    max_sizes: int = 64
    size_step: int = 1
    cache: Cache = Cache.disk
    shuffle_buffer: int = 10_000
    data_dir: str | None = None

    def __post_init__(self) -> None:
        require(
            0.0 <= self.validation_fraction < 1.0,
            "dataset.validation_fraction",
            self.validation_fraction,
            "must lie in [0, 1)",
            "Use for example dataset.validation_fraction=0.1.",
        )
        require(
            self.image_size is None or (len(self.image_size) == 2 and all(map(is_side, self.image_size))),
            "dataset.image_size",
            self.image_size,
            "must be null or [height, width], each from 1 to 65,535 px",
            "Use for example dataset.image_size=[64,64].",
        )
        require(
            self.version is None or re.fullmatch(r"(\d+|\*)(\.(\d+|\*)){2}", self.version) is not None,
            "dataset.version",
            self.version,
            "must be null or three numbers",
            "Use for example dataset.version=3.0.1, or null for the newest.",
        )
        require_at_least(1, "dataset.max_sizes", self.max_sizes, 64)
        require_at_least(1, "dataset.size_step", self.size_step, 16)
        require(
            self.cache is not Cache.none or not self.native_size,
            "dataset.cache",
            self.cache.value,
            "images of natural size (dataset.native_size=true) are kept in memory",
            "Use dataset.cache=memory.",
        )
        require_at_least(1, "dataset.shuffle_buffer", self.shuffle_buffer, 10_000)

    def describe(self) -> DatasetFacts:
        """What the dataset is, from TFDS's description of it; reads no image and downloads nothing.

        Raises:
            UserError: TFDS does not know the dataset, it is not one for image classification, or its images vary in
                size and `image_size` does not say what to resize them to.
        """
        builder = self._builder()
        image_key, label_key = _supervised_keys(builder)
        *size, channels = builder.info.features[image_key].shape
        if self.image_size is not None:
            size = self.image_size
        if None in size:
            raise ConfigError(
                "dataset.image_size",
                None,
                f"is needed: the images of {self.name} vary in size",
                "Use for example dataset.image_size=[96,96], and dataset.native_size=true to resize nothing.",
            )
        height, width = size
        return DatasetFacts(
            name=builder.info.full_name.rsplit("/", 1)[0],
            version=str(builder.version),
            image_shape=(height, width, channels),
            class_names=tuple(builder.info.features[label_key].names),
            natural=self.native_size,
        )

    def load(self, seed: int, cache_dir: Path) -> Data:
        """Prepares the dataset if need be and opens its splits.

        Args:
            seed: Draws the validation part and the order of the training images.
            cache_dir: Where `cache=disk` keeps decoded images.

        Raises:
            UserError: The dataset cannot be downloaded or prepared, has no such split, does not fit into memory, or has
                images of too many natural sizes.
        """
        facts = self.describe()
        train, test = self._open_splits(facts, cache_dir)
        if facts.natural:
            from pipeline.natural_sizes import check_count

            check_count(train, test, self.max_sizes)

        held_out = round(len(train) * self.validation_fraction)
        require(
            held_out < len(train) and (held_out > 0 or self.validation_fraction == 0),
            "dataset.validation_fraction",
            self.validation_fraction,
            f"holds {held_out} of the {len(train)} images of {self.train_split} out; at least one must be held out and "
            "one be left to train on",
            "Use for example dataset.validation_fraction=0.1, or 0 to hold out none.",
        )
        shuffled = np.random.default_rng(seed).permutation(len(train))
        return Data(
            facts=facts,
            train_split=train,
            train_indices=np.sort(shuffled[held_out:]),
            validation_indices=np.sort(shuffled[:held_out]),
            test_split=test,
            seed=seed,
        )

    def _open_splits(self, facts: DatasetFacts, cache_dir: Path) -> tuple[ImageSplit, ImageSplit]:
        """The split to train on and the one to test on."""
        builder = self._prepared_builder()
        for key, split in (("dataset.train_split", self.train_split), ("dataset.test_split", self.test_split)):
            _check_split(builder, key, split)
        _check_no_overlap(builder, self.train_split, self.test_split)
        return (
            self._open(builder, self.train_split, facts, cache_dir),
            self._open(builder, self.test_split, facts, cache_dir),
        )

    def _builder(self) -> tfds.core.DatasetBuilder:
        return _find_builder(self.name, self.version, self.data_dir)

    def _prepared_builder(self) -> tfds.core.DatasetBuilder:
        import tensorflow_datasets as tfds
        from filelock import FileLock
        from tensorflow_datasets.core.download import downloader

        builder = self._builder()
        if builder.is_prepared():
            return builder
        if not sys.stderr.isatty():
            tfds.disable_progress_bar()
        # TFDS tries a download eleven times, which takes 200 s on a machine without a network.
        downloader.MAX_RETRIES = 2
        # TFDS keeps a dataset under its full name, name/configuration/version.
        data_dir = Path(builder.data_dir).parents[builder.info.full_name.count("/")]
        try:
            data_dir.mkdir(parents=True, exist_ok=True)
            # Of two processes that prepare one dataset at once, TFDS fails one.
            with FileLock(data_dir / f"{self.name.replace('/', '-')}.lock"):
                _find_builder.cache_clear()  # Another process may have prepared it meanwhile.
                builder = self._builder()
                builder.download_and_prepare()
        except Exception as error:  # TFDS and its downloaders raise almost anything.
            if storage.is_full(error):
                raise storage.DiskFullError(error, [data_dir], "dataset.data_dir=PATH") from error
            raise UserError(
                f"dataset={self.name} could not be prepared in data_dir {data_dir}: {class_and_first_line(error)}. "
                f"Without a network, put the original archives into the manual directory "
                f"{data_dir / 'downloads' / 'manual'}, name a directory that holds the prepared dataset with "
                "dataset.data_dir=PATH, or use dataset=digits, which needs no download."
            ) from error
        if not builder.info.splits:  # TFDS takes the folder for prepared, whatever is in it.
            raise _damaged(builder, f"{builder.data_dir} does not say what is in it")
        return builder

    def _open(self, builder: tfds.core.DatasetBuilder, split: str, facts: DatasetFacts, cache_dir: Path) -> ImageSplit:
        if self.native_size:
            from pipeline.natural_sizes import decode_natural

            return decode_natural(builder, split, facts.image_size, self.size_step)
        if self.cache is Cache.none:
            _check_whole(builder, split)
            return StreamedSplit(builder, split, facts.image_size, self.shuffle_buffer)
        return _decode_once(self.name, self.version, self.data_dir, split, facts, self.cache, cache_dir)


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


class ImageSplit(ABC):
    """Images and labels of one split, in a fixed order.

    Attributes:
        name: TFDS name of the split.
        digest: First 32 hexadecimal digits of the SHA-256 of the split's name and files.
        size: Height and width of the images in pixels; of each image, (N,) and (N,), where they vary.
    """

    name: str
    digest: str
    size: Size | tuple[np.ndarray, np.ndarray]

    @abstractmethod
    def __len__(self) -> int:
        """Number of images."""

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
    """A split whose images are decoded once, in memory or in memory-mapped files."""

    def __init__(self, name: str, digest: str, images: np.ndarray, labels: np.ndarray) -> None:
        self.name, self.digest, self.images, self.labels = name, digest, images, labels
        self.size = images.shape[1:3]

    def __len__(self) -> int:
        return len(self.labels)

    def in_order(self, indices: np.ndarray, batch_size: int) -> tf.data.Dataset:
        import tensorflow as tf

        return self._fetch(tf.data.Dataset.from_tensor_slices(indices).batch(batch_size))

    def epochs(self, indices: np.ndarray, batch_size: int, numbers: range, seed: int) -> tf.data.Dataset:
        import tensorflow as tf

        def epoch(number: tf.Tensor) -> tf.data.Dataset:
            order = tf.random.experimental.stateless_shuffle(indices, seed=tf.stack([seed, number]))
            return tf.data.Dataset.from_tensor_slices(order).batch(batch_size)

        return self._fetch(tf.data.Dataset.range(numbers.start, numbers.stop).flat_map(epoch))

    def _fetch(self, batches_of_indices: tf.data.Dataset) -> tf.data.Dataset:
        import tensorflow as tf

        if self.images.nbytes > SMALL_SPLIT:
            return fetch(batches_of_indices, lambda at: (self.images[at], self.labels[at]), self.images.shape[1:])
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
        self._builder, self._size, self._shuffle_buffer = builder, size, shuffle_buffer

    def __len__(self) -> int:
        return int(self._builder.info.splits[self.name].num_examples)

    def in_order(self, indices: np.ndarray, batch_size: int) -> tf.data.Dataset:
        return self._finish(self._images_at(indices).batch(batch_size), math.ceil(len(indices) / batch_size))

    def epochs(self, indices: np.ndarray, batch_size: int, numbers: range, seed: int) -> tf.data.Dataset:
        # `repeat` comes last, so that each epoch is shuffled anew and ends with its own smaller batch.
        shuffled = self._images_at(indices).shuffle(self._shuffle_buffer, seed=seed, reshuffle_each_iteration=True)
        count = math.ceil(len(indices) / batch_size)
        every = self._finish(shuffled.batch(batch_size).repeat(numbers.stop), count * numbers.stop)
        return every.skip(count * numbers.start)  # What was drawn before decides the order.

    def _finish(self, batches: tf.data.Dataset, count: int) -> tf.data.Dataset:
        import tensorflow as tf

        # Behind a filter TensorFlow cannot count the batches, and Keras would warn that it ran out of data.
        counted = batches.apply(tf.data.experimental.assert_cardinality(count))
        return without_autotune(counted.prefetch(PREFETCH_BATCHES))

    def _images_at(self, indices: np.ndarray) -> tf.data.Dataset:
        wanted = np.zeros(len(self), dtype=bool)
        wanted[indices] = True
        return read(self._builder, self.name, self._size, wanted)


def fetch(
    batches_of_indices: tf.data.Dataset,
    read: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]],
    image_shape: tuple[int | None, ...],
) -> tf.data.Dataset:
    """Batches of images and labels from batches of indices.

    Args:
        batches_of_indices: int64 (B,) each.
        read: From indices (B,) to images uint8 (B, H, W, C) and labels int64 (B,).
        image_shape: (H, W, C), None for a side that varies from batch to batch.
    """
    import tensorflow as tf

    def fetch_batch(indices: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        images, labels = tf.numpy_function(read, [indices], [tf.uint8, tf.int64], stateful=False)
        return tf.ensure_shape(images, (None, *image_shape)), tf.ensure_shape(labels, (None,))

    return without_autotune(batches_of_indices.map(fetch_batch).prefetch(PREFETCH_BATCHES))


def _resize_each(
    batches: tf.data.Dataset, sizes: Sequence[Size], facts: DatasetFacts, seed: int, first: int
) -> tf.data.Dataset:
    """Batches of images from number `first` on, each resized to one of `sizes` that seed and number draw."""
    import tensorflow as tf

    def resized(number: tf.Tensor, batch: tuple[tf.Tensor, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
        images, labels = batch
        drawn = tf.random.stateless_uniform((), tf.stack([seed, number]), maxval=len(sizes), dtype=tf.int32)
        size = tf.gather(tf.constant(sizes), drawn)
        is_native = tf.reduce_all(size == tf.constant(facts.image_size))
        images = tf.cond(is_native, lambda: images, lambda: resize(images, size))
        return tf.ensure_shape(images, (None, None, None, facts.channels)), labels

    chosen = batches.enumerate(first).map(resized, num_parallel_calls=os.cpu_count(), deterministic=True)
    return without_autotune(chosen.prefetch(PREFETCH_BATCHES))


def resize(images: tf.Tensor, size: Size) -> tf.Tensor:
    """Resizes uint8 images (N, H, W, C) or (H, W, C) to `size` px: bilinear, antialiased, rounded to uint8."""
    import tensorflow as tf

    resized = tf.image.resize(images, size, method="bilinear", antialias=True)
    return tf.cast(tf.clip_by_value(tf.round(resized), 0, 255), tf.uint8)


@functools.cache
def _find_builder(name: str, version: str | None, data_dir: str | None) -> tfds.core.DatasetBuilder:
    import tensorflow_datasets as tfds

    import pipeline.datasets.digits.digits_dataset_builder  # noqa: F401  (importing it registers `digits`)

    try:
        builder = tfds.builder(f"{name}:{version}" if version else name, data_dir=data_dir)
        builder.info  # noqa: B018  (now, not later, it reads the files that describe the dataset)
        return builder
    except tfds.core.DatasetNotFoundError as error:
        raise ConfigError(
            "dataset.name",
            name,
            f"TFDS {tfds.__version__} knows no such dataset",
            suggestion(name, tfds.list_builders()) or "https://www.tensorflow.org/datasets/catalog lists all of them.",
        ) from error
    except Exception as error:  # TFDS raises AssertionError, ValueError and others for versions and configurations.
        raise ConfigError(
            "dataset",
            f"{name}:{version}" if version else name,
            f"TFDS cannot open it: {class_and_first_line(error)}",
            "Check dataset.name, dataset.version and dataset.data_dir.",
        ) from error


def _supervised_keys(builder: tfds.core.DatasetBuilder) -> tuple[str, str]:
    import tensorflow_datasets as tfds

    keys = builder.info.supervised_keys
    if keys and len(keys) == 2 and all(isinstance(key, str) for key in keys):
        image, label = (builder.info.features[key] for key in keys)
        if isinstance(image, tfds.features.Image) and isinstance(label, tfds.features.ClassLabel):
            if image.np_dtype == np.uint8 and image.shape[-1] is not None:
                return keys
            raise ConfigError(
                "dataset.name",
                builder.name,
                f"has images of type {image.np_dtype} and shape {image.shape}; only uint8 with a known number of "
                "channels is supported",
                "Choose another dataset.",
            )
    raise ConfigError(
        "dataset.name",
        builder.name,
        f"is not an image-classification dataset (its supervised keys are {keys})",
        "Choose one whose supervised keys are an Image and a ClassLabel, such as fashion_mnist.",
    )


def _check_split(builder: tfds.core.DatasetBuilder, key: str, split: str) -> None:
    try:
        empty = builder.info.splits[split].num_examples == 0
    except Exception as error:  # KeyError for an unknown name, ValueError and others for a malformed slice.
        known = ", ".join(builder.info.splits)
        remedy = f"Use one of {known}, or a part, quoted twice for the shell and for Hydra: \"{key}='train[:80%]'\"."
        raise ConfigError(key, split, f"{builder.name} has no such split", remedy) from error
    require(not empty, key, split, "holds no image", "Use a larger part of the split.")


def _check_no_overlap(builder: tfds.core.DatasetBuilder, train_split: str, test_split: str) -> None:
    """Raises `ConfigError` if an image is in both splits."""

    def ranges(split: str) -> list[tuple[str, int, int]]:
        parts = builder.info.splits[split].file_instructions
        return [(str(part.filename), part.skip, part.skip + part.take) for part in parts]

    for train_file, train_start, train_end in ranges(train_split):
        for test_file, test_start, test_end in ranges(test_split):
            overlap = train_file == test_file and train_start < test_end and test_start < train_end
            require(
                not overlap,
                "dataset.test_split",
                test_split,
                f"shares images with dataset.train_split={train_split}: what was trained on cannot be tested on",
                "Use for example \"dataset.train_split='train[:80%]'\" \"dataset.test_split='train[80%:]'\".",
            )


def _available_memory() -> int:
    import psutil

    return psutil.virtual_memory().available


def _check_memory(split: str, facts: DatasetFacts, needed: int, cache: Cache, cache_dir: Path) -> None:
    available = _available_memory()
    room, other = "", "dataset.cache=disk, "
    if cache is Cache.disk:
        room, other = f"{storage.room([cache_dir])}, ", ""
    require(
        needed < available,
        "dataset.cache",
        cache.value,
        f"{split} of {facts.name} takes {needed / 1e9:.1f} GB at {size_text(facts.image_size)} px; free are {room}"
        f"{available / 1e9:.1f} GB of memory",
        f"Use {other}dataset.cache=none or a smaller dataset.image_size.",
    )


def read(
    builder: tfds.core.DatasetBuilder, split: str, size: Size | None, wanted: np.ndarray | None = None
) -> tf.data.Dataset:
    """(uint8 (H, W, C), int64) of every example, or of those where `wanted` is true, in the order of the files.

    Images are resized to `size`; None leaves them as they are.
    """
    import tensorflow as tf

    examples = _encoded(builder, split)
    if wanted is not None:
        mask = tf.constant(wanted)
        examples = examples.enumerate().filter(lambda index, _: mask[index]).map(lambda _, example: example)
    feature = builder.info.features[_supervised_keys(builder)[0]]

    def pair(encoded: tf.Tensor, label: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        image = feature.decode_example(encoded)  # Only now, so that unwanted images cost no decoding.
        return (image if size in (None, feature.shape[:2]) else resize(image, size)), label

    return examples.map(pair, num_parallel_calls=os.cpu_count(), deterministic=True)


def _encoded(builder: tfds.core.DatasetBuilder, split: str) -> tf.data.Dataset:
    """(content of the image's file, int64) of every example, in the order of the files."""
    import tensorflow_datasets as tfds

    image_key, label_key = _supervised_keys(builder)
    read_config = tfds.ReadConfig(
        try_autocache=False,
        # Interleaving in parallel starts some fifty threads an iterator, and reads a local file no faster.
        num_parallel_calls_for_interleave_files=None,
        options=_options(),
    )
    with warnings.catch_warnings():
        # TFDS asks for a deterministic order, which one call at a time has anyway.
        warnings.filterwarnings("ignore", message="The `deterministic` argument has no effect")
        examples = builder.as_dataset(
            split=split,
            shuffle_files=False,
            decoders=tfds.decode.PartialDecoding(
                {image_key: True, label_key: True}, decoders={image_key: tfds.decode.SkipDecoding()}
            ),
            read_config=read_config,
        )
    return examples.map(lambda example: (example[image_key], example[label_key]))


@functools.lru_cache(maxsize=2)  # The two splits of one dataset: every run of a study in this process shares them.
def _decode_once(
    name: str,
    version: str | None,
    data_dir: str | None,
    split: str,
    facts: DatasetFacts,
    cache: Cache,
    cache_dir: Path,
) -> DecodedSplit:
    builder = _find_builder(name, version, data_dir)
    digest = split_digest(builder, split)
    shape = (int(builder.info.splits[split].num_examples), *facts.image_shape)
    needed = math.prod(shape)
    if cache is Cache.disk:
        directory = cache_dir / f"{facts.name.replace('/', '-')}-{digest}-{'x'.join(map(str, facts.image_shape))}"
        try:
            return DecodedSplit(split, digest, *_decoded_on_disk(builder, split, shape, directory))
        except OSError as error:
            if not storage.is_full(error):
                raise
            fits = needed < _available_memory()
            if not fits and needed <= shutil.disk_usage(cache_dir).total:  # Room can be made.
                raise storage.DiskFullError(error, [cache_dir]) from error
            if fits:
                log.warning(
                    "dataset.cache=disk: %s has no room for %.1f MB of decoded images (free: %s); they are kept in "
                    "memory",
                    *(cache_dir, needed / 1e6, storage.room([cache_dir])),
                )
    _check_memory(split, facts, needed, cache, cache_dir)
    images, labels = np.empty(shape, np.uint8), np.empty(shape[0], np.int64)
    start = 0
    for batch_images, batch_labels in _decoded(builder, split, facts.image_size):
        end = start + len(batch_labels)
        images[start:end], labels[start:end] = batch_images, batch_labels
        start = end
    return DecodedSplit(split, digest, images, labels)


def _decoded_on_disk(
    builder: tfds.core.DatasetBuilder, split: str, shape: tuple[int, ...], directory: Path
) -> tuple[np.ndarray, np.ndarray]:
    """Images (N, H, W, C), memory-mapped, and labels (N,) from a directory, to which they are decoded if need be."""
    from filelock import FileLock

    directory.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(directory.with_name(f"{directory.name}.lock")):  # Others wait, and decode nothing themselves.
        if directory.exists():
            try:
                return _open_decoded(directory, shape)
            except (OSError, EOFError, ValueError) as error:
                log.warning("%s is damaged (%s): the images are decoded anew", directory, class_and_first_line(error))
                if directory.is_dir():
                    shutil.rmtree(directory)
                else:
                    directory.unlink()
        storage.remove_leftovers(directory)
        if math.prod(shape) > shutil.disk_usage(directory.parent).free:  # Not after writing for an hour.
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(directory))
        with storage.whole(directory) as beside:
            _decode_to_disk(builder, split, shape, beside)
        return _open_decoded(directory, shape)


def _open_decoded(directory: Path, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    # Plain arrays: each batch that is cut out of a numpy.memmap would be made one, too.
    images = np.load(directory / "images.npy", mmap_mode="r").view(np.ndarray)
    labels = np.load(directory / "labels.npy")
    if (images.dtype, images.shape, labels.shape) != (np.uint8, shape, shape[:1]):
        raise ValueError(f"it holds images {images.shape} and labels {labels.shape} instead of {shape} and {shape[:1]}")
    return images, labels


def _decode_to_disk(builder: tfds.core.DatasetBuilder, split: str, shape: tuple[int, ...], directory: Path) -> None:
    directory.mkdir()
    _, height, width, _ = shape
    # Not through a memory map: on a full disk, writing to one kills the process.
    with (directory / "images.npy").open("wb") as images, (directory / "labels.npy").open("wb") as labels:
        for file, kind, of_shape in ((images, "|u1", shape), (labels, "<i8", shape[:1])):
            header = {"descr": kind, "fortran_order": False, "shape": of_shape}
            np.lib.format.write_array_header_1_0(file, header)
        for batch_images, batch_labels in _decoded(builder, split, (height, width)):
            images.write(batch_images.astype("|u1").tobytes())
            labels.write(batch_labels.astype("<i8").tobytes())


def _decoded(builder: tfds.core.DatasetBuilder, split: str, size: Size) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    return every_example(builder, split, read(builder, split, size).batch(DECODE_BATCH))


def every_example(
    builder: tfds.core.DatasetBuilder, split: str, examples: tf.data.Dataset
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Images and labels of a split, in batches or one by one; raises `UserError` if some cannot be read."""
    import tensorflow as tf

    expected, count, what = builder.info.splits[split].num_examples, 0, ""
    try:
        for images, labels in without_autotune(examples).as_numpy_iterator():
            yield images, labels
            count += np.size(labels)
    except tf.errors.OpError as error:  # A file that ends too early, a checksum or an image that is wrong.
        what = f" ({class_and_first_line(error)})"
    if count != expected:
        raise _damaged(builder, f"{split} should hold {expected} images, {count} could be read{what}")


@functools.cache
def _check_whole(builder: tfds.core.DatasetBuilder, split: str) -> None:
    """Raises `UserError` unless every example can be read, without decoding them: so not in the middle of training."""
    split_digest(builder, split)  # Says which file is missing.
    for _ in every_example(builder, split, _encoded(builder, split).batch(DECODE_BATCH)):
        pass


def _damaged(builder: tfds.core.DatasetBuilder, what: str) -> UserError:
    return UserError(f"{builder.info.full_name} is damaged: {what}. Delete {builder.data_dir} and start again.")


@functools.cache
def split_digest(builder: tfds.core.DatasetBuilder, split: str) -> str:
    """First 32 hexadecimal digits of the SHA-256 of the split's name and prepared files."""
    digest = hashlib.sha256(split.encode())
    for path in sorted(Path(path) for path in builder.info.splits[split].filepaths):
        try:
            with path.open("rb") as file:
                for block in iter(lambda: file.read(1 << 20), b""):
                    digest.update(block)
        except OSError as error:
            raise _damaged(builder, f"{path} of {split} cannot be read: {error.strerror}") from error
    return digest.hexdigest()[:32]


def _options() -> tf.data.Options:
    import tensorflow as tf

    options = tf.data.Options()
    options.autotune.enabled = False
    options.deterministic = True
    # With training.strategy=multi_worker, every rank reads all and keeps its share of each batch: images are chosen by
    # their number, which must be the same for all.
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
    return options


def without_autotune(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """The same, with the options that every pipeline of the program has."""
    return dataset.with_options(_options())
