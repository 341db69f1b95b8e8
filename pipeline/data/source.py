"""Where the images come from: what a dataset is, and its splits, opened. The door to this room."""

from __future__ import annotations

import functools
import logging
import sys
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds
from filelock import FileLock
from tensorflow_datasets.core.download import downloader

from pipeline.common.errors import UserError, class_and_first_line, the_first_of
from pipeline.common.files import DiskFullError, is_disk_full
from pipeline.data import image_folder
from pipeline.data.batches import Data
from pipeline.data.decoded import decode_once
from pipeline.data.facts import DatasetFacts
from pipeline.data.natural_sizes import check_count, decode_natural
from pipeline.data.settings import Cache, Dataset, ImageFolder
from pipeline.data.splits import ImageSplit, StreamedSplit
from pipeline.data.tfds import check_no_overlap, check_split, damaged, find_builder, supervised_keys
from pipeline.data.validation import hold_out, most_held_out

log = logging.getLogger("pipeline")


@functools.singledispatch
def describe(dataset: Dataset) -> DatasetFacts:
    """What a dataset is, before any image is read or downloaded.

    Raises:
        UserError: There is no such dataset, it is not one for image classification, or its images vary in size and
            `dataset.image_size` does not say what to resize them to.
    """
    builder = _builder(dataset)
    image_key, label_key = supervised_keys(builder)
    *size, channels = builder.info.features[image_key].shape
    if dataset.image_size is not None:
        size = dataset.image_size
    if None in size:
        raise dataset.error(
            "image_size",
            f"is needed: the images of {dataset.name} vary in size",
            "Use for example dataset.image_size=[96,96], and dataset.native_size=true to resize nothing.",
        )
    height, width = size
    return DatasetFacts(
        name=builder.info.full_name.rsplit("/", 1)[0],
        version=str(builder.version),
        image_shape=(height, width, channels),
        class_names=tuple(builder.info.features[label_key].names),
        natural=dataset.native_size,
    )


@functools.singledispatch
def open_splits(dataset: Dataset, facts: DatasetFacts, cache_dir: Path) -> tuple[ImageSplit, ImageSplit]:
    """The split to train on and the one to test on, prepared if need be; for the rest see `load`."""
    builder = _prepared_builder(dataset)
    for key, split in (("dataset.train_split", dataset.train_split), ("dataset.test_split", dataset.test_split)):
        check_split(builder, key, split)
    check_no_overlap(builder, dataset.train_split, dataset.test_split)
    return (
        _open(dataset, builder, dataset.train_split, facts, cache_dir),
        _open(dataset, builder, dataset.test_split, facts, cache_dir),
    )


@functools.singledispatch
def open_test(dataset: Dataset, facts: DatasetFacts, cache_dir: Path) -> ImageSplit:
    """The split to test on alone, see `open_splits`: that to train on is not decoded."""
    builder = _prepared_builder(dataset)
    check_split(builder, "dataset.test_split", dataset.test_split)
    return _open(dataset, builder, dataset.test_split, facts, cache_dir)


describe.register(ImageFolder, image_folder.describe)
open_splits.register(ImageFolder, image_folder.open_splits)
open_test.register(ImageFolder, lambda *arguments: image_folder.open_splits(*arguments)[1])


def load(dataset: Dataset, seed: int, cache_dir: Path) -> Data:
    """Prepares a dataset if need be and opens its splits.

    Args:
        dataset: Which.
        seed: Draws the validation part and the order of the training images.
        cache_dir: Where `dataset.cache=disk` keeps decoded images.

    Raises:
        UserError: The dataset cannot be downloaded or prepared, has no such split, does not fit into memory, or has
            images of too many natural sizes.
    """
    facts = describe(dataset)
    train, test = open_splits(dataset, facts, cache_dir)
    if facts.natural:
        check_count(train, test, dataset.max_sizes)
    if train.set_apart is None:
        train_indices, validation_indices = hold_out(train.labels, _held_out(dataset, train), seed)
    else:
        train_indices, validation_indices = np.delete(np.arange(len(train)), train.set_apart), train.set_apart
    _name_missing_classes(facts, train, validation_indices)
    return Data(
        facts=facts,
        train_split=train,
        train_indices=train_indices,
        validation_indices=validation_indices,
        test_split=test,
        seed=seed,
    )


def _held_out(dataset: Dataset, train: ImageSplit) -> int:
    """How many images are held out for validation; raises `ConfigError` if none or too many would be."""
    images, fraction, most = len(train), dataset.validation_fraction, most_held_out(train.labels)
    held_out = round(images * fraction)
    usual = round(images * 0.1)
    nearest = min(max(usual, 1), most)
    example = f"for example dataset.validation_fraction={0.1 if nearest == usual else nearest / images:.6g}, or "
    dataset.require(
        "validation_fraction",
        fraction == 0 or 1 <= held_out <= most,
        f"holds {held_out} of the {images} images of {dataset.train_split} out; at least one must be held out, and one "
        "of each class be left to train on",
        f"Use {example if most else ''}dataset.validation_fraction=0 training.keep_weights=last to hold out none.",
    )
    return held_out


def _name_missing_classes(facts: DatasetFacts, train: ImageSplit, validation_indices: np.ndarray) -> None:
    """Says of which classes there is no validation image, if there are any validation images."""
    held_out = set(train.labels[validation_indices])
    missing = [
        f"{name} ({np.count_nonzero(train.labels == label)} in {train.name})"
        for label, name in enumerate(facts.class_names)
        if label not in held_out
    ]
    if held_out and missing:
        why = (
            " Each class keeps one image to train on; then each has one of the validation images "
            f"({len(validation_indices)}), the larger classes first."
        )
        log.warning(
            "There is no validation image of %s.%s", the_first_of(missing), why if train.set_apart is None else ""
        )


def forget() -> None:
    """Forgets what this process has opened and decoded, for whoever changes a dataset's files meanwhile."""
    for kept in (find_builder, decode_once, decode_natural, image_folder.decode_folder):
        kept.cache_clear()


def _builder(dataset: Dataset) -> tfds.core.DatasetBuilder:
    return find_builder(dataset.name, dataset.version, dataset.data_dir)


def _prepared_builder(dataset: Dataset) -> tfds.core.DatasetBuilder:
    builder = _builder(dataset)
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
        with FileLock(data_dir / f"{dataset.name.replace('/', '-')}.lock"):
            find_builder.cache_clear()  # Another process may have prepared it meanwhile.
            builder = _builder(dataset)
            log.info("  preparing %s, once: this can take some minutes", dataset.name)
            builder.download_and_prepare()
    except Exception as error:  # TFDS and its downloaders raise almost anything.
        if is_disk_full(error):
            raise DiskFullError(error, [data_dir], "dataset.data_dir=PATH") from error
        raise UserError(
            f"dataset={dataset.name} could not be prepared in data_dir {data_dir}: {class_and_first_line(error)}. "
            f"Without a network, put the original archives into the manual directory "
            f"{data_dir / 'downloads' / 'manual'}, name a directory that holds the prepared dataset with "
            "dataset.data_dir=PATH, or use dataset=digits, which needs no download."
        ) from error
    if not builder.info.splits:  # TFDS takes the folder for prepared, whatever is in it.
        raise damaged(builder, f"{builder.data_dir} does not say what is in it")
    return builder


def _open(
    dataset: Dataset, builder: tfds.core.DatasetBuilder, split: str, facts: DatasetFacts, cache_dir: Path
) -> ImageSplit:
    if dataset.native_size:
        return decode_natural(builder, split, facts.image_size, dataset.size_step)
    if dataset.cache is Cache.none:
        return StreamedSplit(builder, split, facts.image_size, dataset.shuffle_buffer)
    return decode_once(dataset.name, dataset.version, dataset.data_dir, split, facts, dataset.cache, cache_dir)
