"""Images that are decoded once: in memory, or in memory-mapped files that processes share."""

from __future__ import annotations

import functools
import logging
import math
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import tensorflow_datasets as tfds

from pipeline.common.errors import require
from pipeline.common.files import DiskFullError, free_space, is_disk_full
from pipeline.common.size import Size, size_text
from pipeline.data.facts import DatasetFacts
from pipeline.data.kept_images import IMAGES, LABELS, directory_of
from pipeline.data.made_once import begin_array, made_once, open_array
from pipeline.data.settings import Cache
from pipeline.data.splits import DecodedSplit
from pipeline.data.tfds import DECODE_BATCH, every_example, find_builder, read, split_digest

log = logging.getLogger("pipeline")


def available_memory() -> int:
    """Bytes that are free."""
    return psutil.virtual_memory().available


def _check_memory(split: str, facts: DatasetFacts, needed: int, cache: Cache, cache_dir: Path) -> None:
    available = available_memory()
    room, other = "", "dataset.cache=disk, "
    if cache is Cache.disk:
        room, other = f"{free_space([cache_dir])}, ", ""
    require(
        needed < available,
        "dataset.cache",
        cache.value,
        f"{split} of {facts.name} takes {needed / 1e9:.1f} GB at {size_text(facts.image_size)} px; free are {room}"
        f"{available / 1e9:.1f} GB of memory",
        f"Use {other}dataset.cache=none or a smaller dataset.image_size.",
    )


@functools.lru_cache(maxsize=2)  # The two splits of one dataset: every run of a study in this process shares them.
def decode_once(
    name: str,
    version: str | None,
    data_dir: str | None,
    split: str,
    facts: DatasetFacts,
    cache: Cache,
    cache_dir: Path,
) -> DecodedSplit:
    """A split whose images are decoded now, or by an earlier call or process.

    Raises:
        UserError: The prepared files are damaged, or the images do not fit.
    """
    builder = find_builder(name, version, data_dir)
    digest = split_digest(builder, split)
    shape = (int(builder.info.splits[split].num_examples), *facts.image_shape)
    needed = math.prod(shape)
    if cache is Cache.disk:
        directory = directory_of(cache_dir, facts.name, digest, facts.image_shape)
        try:
            return DecodedSplit(split, digest, *_decoded_on_disk(builder, split, shape, directory))
        except OSError as error:
            if not is_disk_full(error):
                raise
            fits = needed < available_memory()
            if not fits and needed <= shutil.disk_usage(cache_dir).total:  # Room can be made.
                raise DiskFullError(error, [cache_dir]) from error
            if fits:
                log.warning(
                    "dataset.cache=disk: %s has no room for %.1f MB of decoded images (free: %s); they are kept in "
                    "memory",
                    *(cache_dir, needed / 1e6, free_space([cache_dir])),
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
    return made_once(
        directory,
        math.prod(shape),
        make=lambda beside: _decode_to_disk(builder, split, shape, beside),
        open_made=lambda made: (
            open_array(made / IMAGES, np.uint8, shape),
            open_array(made / LABELS, np.int64, shape[:1]),
        ),
        again="the images are decoded anew",
    )


def _decode_to_disk(builder: tfds.core.DatasetBuilder, split: str, shape: tuple[int, ...], directory: Path) -> None:
    directory.mkdir()
    _, height, width, _ = shape
    with (directory / IMAGES).open("wb") as images, (directory / LABELS).open("wb") as labels:
        begin_array(images, "|u1", shape)
        begin_array(labels, "<i8", shape[:1])
        for batch_images, batch_labels in _decoded(builder, split, (height, width)):
            images.write(batch_images.astype("|u1").tobytes())
            labels.write(batch_labels.astype("<i8").tobytes())


def _decoded(builder: tfds.core.DatasetBuilder, split: str, size: Size) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    return every_example(builder, split, read(builder, split, size).batch(DECODE_BATCH))
