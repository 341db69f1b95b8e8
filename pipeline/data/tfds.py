"""TFDS: its builders, their splits, and what is wrong with them."""

from __future__ import annotations

import functools
import hashlib
import os
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

import pipeline.data.digits.digits_dataset_builder  # noqa: F401  (importing it registers `digits`)
from pipeline.common.errors import ConfigError, UserError, class_and_first_line, require, suggestion, the_first_of
from pipeline.common.size import Size
from pipeline.data.tf_data import pipeline_options, resize, without_autotune

DECODE_BATCH = 1024
"""Images read and decoded at a time."""


def _import_classes_of_tfds_alone() -> None:
    """A prepared dataset's `features.json` names the classes of its features, and TFDS imports whatever is named there:
    any module that there is, with what it does when it is imported. Calling it again changes nothing."""
    feature_class = tfds.features.FeatureConnector.cls_from_name.__func__
    if feature_class.__module__ == __name__:
        return

    def known_class(cls: type, python_class_name: str) -> type:
        if not python_class_name.startswith("tensorflow_datasets."):
            raise ValueError(
                f"it names the class {python_class_name}, and only those of tensorflow_datasets are imported"
            )
        return feature_class(cls, python_class_name)

    tfds.features.FeatureConnector.cls_from_name = classmethod(known_class)


_import_classes_of_tfds_alone()


@functools.cache
def find_builder(name: str, version: str | None, data_dir: str | None) -> tfds.core.DatasetBuilder:
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


def supervised_keys(builder: tfds.core.DatasetBuilder) -> tuple[str, str]:
    keys, features = builder.info.supervised_keys, builder.info.features
    named = list(features) if isinstance(features, tfds.features.FeaturesDict) else []
    if keys and len(keys) == 2 and all(isinstance(key, str) and key in named for key in keys):
        image, label = (features[key] for key in keys)
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
        f"is not an image-classification dataset (its supervised keys are {keys}, its features "
        f"{the_first_of(named) or None})",
        "Choose one whose supervised keys are an Image and a ClassLabel, such as fashion_mnist.",
    )


def check_split(builder: tfds.core.DatasetBuilder, key: str, split: str) -> None:
    try:
        empty = builder.info.splits[split].num_examples == 0
    except Exception as error:  # KeyError for an unknown name, ValueError and others for a malformed slice.
        known = ", ".join(builder.info.splits)
        remedy = f"Use one of {known}, or a part, quoted twice for the shell and for Hydra: \"{key}='train[:80%]'\"."
        raise ConfigError(key, split, f"{builder.name} has no such split", remedy) from error
    require(not empty, key, split, "holds no image", "Use a larger part of the split.")


def check_no_overlap(builder: tfds.core.DatasetBuilder, train_split: str, test_split: str) -> None:
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


def read(
    builder: tfds.core.DatasetBuilder, split: str, size: Size | None, wanted: np.ndarray | None = None
) -> tf.data.Dataset:
    """(uint8 (H, W, C), int64) of every example, or of those where `wanted` is true, in the order of the files.

    Images are resized to `size`; None leaves them as they are.
    """
    examples = _encoded(builder, split)
    if wanted is not None:
        mask = tf.constant(wanted)
        examples = examples.enumerate().filter(lambda index, _: mask[index]).map(lambda _, example: example)
    feature = builder.info.features[supervised_keys(builder)[0]]

    def pair(encoded: tf.Tensor, label: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        image = feature.decode_example(encoded)  # Only now, so that unwanted images cost no decoding.
        return (image if size in (None, feature.shape[:2]) else resize(image, size)), label

    return examples.map(pair, num_parallel_calls=os.cpu_count(), deterministic=True)


def _encoded(builder: tfds.core.DatasetBuilder, split: str) -> tf.data.Dataset:
    """(content of the image's file, int64) of every example, in the order of the files."""
    image_key, label_key = supervised_keys(builder)
    read_config = tfds.ReadConfig(
        try_autocache=False,
        # Interleaving in parallel starts some fifty threads an iterator, and reads a local file no faster.
        num_parallel_calls_for_interleave_files=None,
        options=pipeline_options(),
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


def every_example(
    builder: tfds.core.DatasetBuilder, split: str, examples: tf.data.Dataset
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Images and labels of a split, in batches or one by one; raises `UserError` if some cannot be read."""
    expected, count, what = builder.info.splits[split].num_examples, 0, ""
    try:
        for images, labels in without_autotune(examples).as_numpy_iterator():
            yield images, labels
            count += np.size(labels)
    except tf.errors.OpError as error:  # A file that ends too early, a checksum or an image that is wrong.
        what = f" ({class_and_first_line(error)})"
    if count != expected:
        raise damaged(builder, f"{split} should hold {expected} images, {count} could be read{what}")


@functools.cache
def read_labels(builder: tfds.core.DatasetBuilder, split: str) -> np.ndarray:
    """Labels of a split, int64 (N,), read without decoding an image.

    Raises:
        UserError: An example cannot be read. So it shows now, and not in the middle of training.
    """
    split_digest(builder, split)  # Says which file is missing.
    batches = every_example(builder, split, _encoded(builder, split).batch(DECODE_BATCH))
    return np.concatenate([labels for _, labels in batches])


def damaged(builder: tfds.core.DatasetBuilder, what: str) -> UserError:
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
            raise damaged(builder, f"{path} of {split} cannot be read: {error.strerror}") from error
    return digest.hexdigest()[:32]
