"""Folders of image files: listed and read by TFDS, decoded by Pillow.

TensorFlow's decoders drop the alpha channel, which shows whatever color transparent pixels happen to have, and do not
know every kind of PNG and JPEG; Pillow's do.
"""

from __future__ import annotations

import functools
import hashlib
import io
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psutil
import tensorflow as tf
import tensorflow_datasets as tfds
from PIL import Image, ImageOps, UnidentifiedImageError

from pipeline.common.errors import class_and_first_line, require, the_first_of
from pipeline.data.facts import DatasetFacts
from pipeline.data.natural_sizes import NaturalSplit, check_room, to_step
from pipeline.data.settings import Corrupt, ImageFolder
from pipeline.data.splits import DecodedSplit, ImageSplit
from pipeline.data.tf_data import resize, without_autotune

log = logging.getLogger("pipeline")

SUFFIXES = (".png", ".jpg", ".jpeg")
"""Of the files that TFDS takes for images, in lower or upper case."""
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
"""What such a file may be, whatever its name says. Of Pillow's others, some start programs (EPS Ghostscript)."""


def _builder(folder: Path) -> tfds.core.DatasetBuilder:
    return tfds.folder_dataset.ImageFolder(str(folder))


def describe(dataset: ImageFolder) -> DatasetFacts:
    """What a folder holds, by the names of its folders and files; reads no image.

    Raises:
        ConfigError: There is no such folder, it lacks a split, a class or an image, or its splits hold different
            classes.
    """
    classes = _check_folders(dataset)
    assert dataset.image_size is not None
    height, width = dataset.image_size
    return DatasetFacts(
        name=dataset.name,
        version=str(_builder(dataset.folder).version),
        image_shape=(height, width, dataset.channels),
        class_names=tuple(classes),
        natural=dataset.native_size,
    )


def open_splits(dataset: ImageFolder, facts: DatasetFacts, cache_dir: Path) -> tuple[ImageSplit, ImageSplit]:
    """The split to train on and the one to test on, in memory: nothing goes to `cache_dir`."""
    step = dataset.size_step if dataset.native_size else None
    train, test = (
        decode_folder(dataset.folder, split, facts.image_shape, step, dataset.background, dataset.corrupt)
        for split in (dataset.train_split, dataset.test_split)
    )
    return train, test


def _check_folders(dataset: ImageFolder) -> list[str]:
    """Returns the classes, sorted; raises `ConfigError` if the folder cannot be trained and tested on."""
    path = dataset.folder

    def folders(parent: Path) -> list[str]:
        return sorted(child.name for child in parent.iterdir() if child.is_dir())

    dataset.require(
        "path",
        path.is_dir(),
        "is not a folder",
        "Name one that holds train/CLASS/*.png and test/CLASS/*.png.",
    )
    for key, split in (("train_split", dataset.train_split), ("test_split", dataset.test_split)):
        dataset.require(
            key,
            split in folders(path),
            f"is not a folder in {path}, which has {', '.join(folders(path)) or 'none'}",
            f"Put the images of each class into {path / split / 'CLASS'}, or name another folder with "
            f"dataset.{key}=NAME.",
        )
    dataset.require(
        "test_split",
        dataset.train_split != dataset.test_split,
        "is dataset.train_split too: what was trained on cannot be tested on",
        "Name another folder.",
    )
    classes = folders(path / dataset.train_split)
    for split in (dataset.train_split, dataset.test_split):
        empty = [name for name in folders(path / split) if not _images(path / split / name)]
        dataset.require(
            "path",
            len(empty) < len(folders(path / split)),
            f"{split} holds no image: there is no {', '.join(SUFFIXES)} file in a folder of a class",
            f"Put the images of each class into {path / split / 'CLASS'}.",
        )
        dataset.require(
            "path",
            not empty,
            f"holds no image of {the_first_of(empty)} in {split}: there is no {', '.join(SUFFIXES)} file",
            "Put images there, or delete the folder in every split.",
        )
        named = [file for name in folders(path / split) for file in _images(path / split / name)]
        # A pipe would be waited for forever.
        readable = (file.is_file() and os.access(file, os.R_OK) for file in named)
        strange = [file.relative_to(path).as_posix() for file, is_so in zip(named, readable, strict=True) if not is_so]
        dataset.require(
            "path",
            not strange,
            f"holds what is named like an image and is no file that may be read: {the_first_of(sorted(strange))}",
            "Delete or rename it, or let yourself read it.",
        )
    # To TFDS every folder is a split, and its labels are the classes of all of them.
    for split in folders(path):
        found = set(folders(path / split))
        differing = found ^ set(classes) if split == dataset.test_split else found - set(classes)
        dataset.require(
            "path",
            not differing,
            f"{dataset.train_split} and {split} hold different classes: one of them alone has "
            f"{the_first_of(sorted(differing))}",
            "Give both the same folders of classes.",
        )
    dataset.require(
        "path",
        len(classes) > 1,
        f"needs at least two classes, and {dataset.train_split} has only {the_first_of(classes)}",
        "Put the images of another class into a folder beside it, in every split.",
    )
    return classes


def _images(folder: Path) -> list[Path]:
    return [file for file in folder.iterdir() if file.suffix.lower() in SUFFIXES]


@functools.lru_cache(maxsize=2)  # The two splits of one folder: every run of a study in this process shares them.
def decode_folder(
    folder: Path, split: str, image_shape: tuple[int, int, int], step: int | None, background: int, corrupt: Corrupt
) -> ImageSplit:
    """Decodes a split: all images resized to one size, or with a `step` at their natural ones (see `to_step`)."""
    builder = _builder(folder)
    height, width, channels = image_shape
    count, free = int(builder.info.splits[split].num_examples), psutil.virtual_memory().available
    digest = hashlib.sha256(split.encode())
    images: list[np.ndarray] = []
    stacked = np.empty((count if step is None else 0, *image_shape), np.uint8)
    check_room(free - stacked.nbytes, split, 0, count)
    labels: list[int] = []
    files: list[str] = []
    unreadable: list[str] = []
    resized = functools.partial(resize, size=(height, width)) if step is None else functools.partial(to_step, step=step)
    for path, content, label, image, problem in _read(builder, split, channels, background, resized):
        file = Path(path.decode()).relative_to(folder).as_posix()
        if problem:
            unreadable.append(f"{file} ({problem.decode()})")
            continue
        digest.update(file.encode() + content)
        if step is None:
            stacked[len(labels)] = image
        else:
            images.append(image)
            free -= image.nbytes
            check_room(free, split, len(images), count)
        labels.append(label)
        files.append(file)
    _check_readable(split, unreadable, count, corrupt)
    ignored = [file for file in (folder / split).glob("*/*") if file.suffix.lower() not in SUFFIXES]
    if ignored:
        shown = the_first_of([file.relative_to(folder).as_posix() for file in sorted(ignored)])
        log.warning("Left out of %s, neither %s: %s", split, ", ".join(SUFFIXES), shown)
    names = builder.info.features["label"].names
    without = [name for label, name in enumerate(names) if label not in labels]
    require(
        not without,
        "dataset.corrupt",
        corrupt.value,
        f"{split} has no readable image of {the_first_of(without)}",
        "Put images there, or delete the folder in every split.",
    )
    if step is None:
        return DecodedSplit(split, digest.hexdigest()[:32], stacked[: len(labels)], np.array(labels))
    return NaturalSplit(split, digest.hexdigest()[:32], images, np.array(labels), files, (height, width))


def _read(
    builder: tfds.core.DatasetBuilder,
    split: str,
    channels: int,
    background: int,
    resized: Callable[[tf.Tensor], tf.Tensor],
) -> Iterator[tuple[bytes, bytes, int, np.ndarray, bytes]]:
    """Path, content, label, image uint8 (H, W, C) and what is wrong with it, of every file; ordered by TFDS."""

    def pixels_or_problem(content: bytes) -> tuple[np.ndarray, bytes]:
        try:
            return pixels(content, channels, background), b""
        except UnidentifiedImageError:  # Pillow's text names an object in memory, another one each time.
            return np.zeros((1, 1, channels), np.uint8), f"it is none of {', '.join(FORMATS)}".encode()
        except Exception as error:  # Pillow's decoders raise almost anything.
            return np.zeros((1, 1, channels), np.uint8), class_and_first_line(error).encode()

    def decoded(example: dict[str, tf.Tensor]) -> tuple[tf.Tensor, ...]:
        image, problem = tf.numpy_function(pixels_or_problem, [example["image"]], [tf.uint8, tf.string], stateful=False)
        image = resized(tf.ensure_shape(image, (None, None, channels)))
        return example["image/filename"], example["image"], example["label"], image, problem

    examples = builder.as_dataset(
        split=split,
        shuffle_files=False,
        decoders={"image": tfds.decode.SkipDecoding()},
        read_config=tfds.ReadConfig(try_autocache=False),
    ).map(decoded, num_parallel_calls=os.cpu_count(), deterministic=True)
    return without_autotune(examples).as_numpy_iterator()


def pixels(content: bytes, channels: int, background: int) -> np.ndarray:
    """Decodes a file of one of the `FORMATS` to uint8 (H, W, channels), upright.

    Args:
        content: Of the file.
        channels: 1 or 3. Colors become gray by ITU-R 601's luma, 0.299 R + 0.587 G + 0.114 B.
        background: Gray level under transparent pixels.
    """
    image = ImageOps.exif_transpose(Image.open(io.BytesIO(content), formats=FORMATS))
    if image.mode.startswith("I"):  # 16 bits a pixel; Pillow would cut off what is above 255.
        image = Image.fromarray(np.round(np.asarray(image) / 257).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        backdrop = Image.new("RGBA", image.size, (background, background, background, 255))
        image = Image.alpha_composite(backdrop, image)
    array = np.asarray(image.convert("L" if channels == 1 else "RGB"))
    return array.reshape(*array.shape[:2], channels)


def _check_readable(split: str, unreadable: list[str], count: int, corrupt: Corrupt) -> None:
    """Raises `ConfigError` if a file cannot be read, or names each in a warning if they are to be skipped."""
    require(
        not unreadable or corrupt is Corrupt.skip,
        "dataset.corrupt",
        corrupt.value,
        f"{len(unreadable)} of the {count} files of {split} cannot be read as images: {the_first_of(unreadable)}",
        "Mend or delete them, or leave them out with dataset.corrupt=skip.",
    )
    for file in unreadable:
        log.warning("Skipped: %s cannot be read as an image", file)
    if unreadable:
        log.warning("Skipped %d of the %d files of %s", len(unreadable), count, split)
