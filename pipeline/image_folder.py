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
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from omegaconf import MISSING

from pipeline.data import Cache, Dataset, DatasetFacts, DecodedSplit, ImageSplit, resize, without_autotune
from pipeline.errors import class_and_first_line, require
from pipeline.natural_sizes import NaturalSplit, check_room, to_step

if TYPE_CHECKING:
    import tensorflow as tf
    import tensorflow_datasets as tfds

log = logging.getLogger("pipeline")

SUFFIXES = (".png", ".jpg", ".jpeg")
"""Of the files that TFDS takes for images, in lower or upper case."""
MAX_NAMED = 10
"""Files named in a message that is about many."""


class Corrupt(Enum):
    """What is done about files that cannot be read as images: they are refused, or skipped."""

    refuse = "refuse"
    skip = "skip"


@dataclass
class ImageFolder(Dataset):
    """A folder of image files, `PATH/train/CLASS/*.png` and `PATH/test/CLASS/*.jpg`, as TFDS's ImageFolder reads it.

    Settings of `Dataset` that are not named here mean the same; splits are folders in PATH, and have no parts.

    Attributes:
        name: Names the results; empty for the folder's own name.
        path: The folder.
        channels: 1 brings all images to grayscale, 3 to RGB.
        background: Gray level, 0 to 255, that transparent pixels are laid over.
        corrupt: What is done about files that cannot be read as images.
    """

    name: str = ""
    path: str = MISSING
    image_size: list[int] | None = field(default_factory=lambda: [32, 32])
    channels: int = 3
    background: int = 0
    corrupt: Corrupt = Corrupt.refuse
    cache: Cache = Cache.memory

    def __post_init__(self) -> None:
        super().__post_init__()
        self.name = self.name or self.folder.name or "image_folder"
        require(
            self.image_size is not None,
            "dataset.image_size",
            None,
            "is needed: images of a folder may vary in size",
            "Use for example dataset.image_size=[32,32], and dataset.native_size=true to resize nothing.",
        )
        require(
            self.channels in (1, 3),
            "dataset.channels",
            self.channels,
            "must be 1 (grayscale) or 3 (RGB)",
            "Use dataset.channels=3.",
        )
        require(
            0 <= self.background <= 255,
            "dataset.background",
            self.background,
            "must be a gray level in [0, 255]",
            "Use dataset.background=0 for black.",
        )
        require(
            self.cache is Cache.memory,
            "dataset.cache",
            self.cache.value,
            "an image folder is decoded once, into memory",
            "Use dataset.cache=memory.",
        )
        for key in ("version", "data_dir"):
            require(
                getattr(self, key) is None,
                f"dataset.{key}",
                getattr(self, key),
                "has no meaning for an image folder, which lies where dataset.path says",
                f"Use dataset.{key}=null.",
            )

    @property
    def folder(self) -> Path:
        return Path(self.path).expanduser().absolute()

    def describe(self) -> DatasetFacts:
        """What the folder holds, by the names of its folders and files; reads no image.

        Raises:
            ConfigError: There is no such folder, it lacks a split, a class or an image, or its splits hold different
                classes.
        """
        classes = _check_folders(self)
        assert self.image_size is not None
        height, width = self.image_size
        return DatasetFacts(
            name=self.name,
            version=str(_builder(self.folder).version),
            image_shape=(height, width, self.channels),
            class_names=tuple(classes),
            natural=self.native_size,
        )

    def _open_splits(self, facts: DatasetFacts, cache_dir: Path) -> tuple[ImageSplit, ImageSplit]:
        step = self.size_step if self.native_size else None
        train, test = (
            _decode(self.folder, split, facts.image_shape, step, self.background, self.corrupt)
            for split in (self.train_split, self.test_split)
        )
        return train, test


def _builder(folder: Path) -> tfds.core.DatasetBuilder:
    import tensorflow_datasets as tfds

    return tfds.folder_dataset.ImageFolder(str(folder))


def _check_folders(dataset: ImageFolder) -> list[str]:
    """Returns the classes, sorted; raises `ConfigError` if the folder cannot be trained and tested on."""
    path = dataset.folder

    def folders(parent: Path) -> list[str]:
        return sorted(child.name for child in parent.iterdir() if child.is_dir())

    require(
        path.is_dir(),
        "dataset.path",
        dataset.path,
        "is not a folder",
        "Name one that holds train/CLASS/*.png and test/CLASS/*.png.",
    )
    for key, split in (("dataset.train_split", dataset.train_split), ("dataset.test_split", dataset.test_split)):
        require(
            split in folders(path),
            key,
            split,
            f"is not a folder in {path}, which has {', '.join(folders(path)) or 'none'}",
            f"Put the images of each class into {path / split / 'CLASS'}, or name another folder with {key}=NAME.",
        )
    require(
        dataset.train_split != dataset.test_split,
        "dataset.test_split",
        dataset.test_split,
        "is dataset.train_split too: what was trained on cannot be tested on",
        "Name another folder.",
    )
    classes = folders(path / dataset.train_split)
    for split in (dataset.train_split, dataset.test_split):
        empty = [name for name in folders(path / split) if not _images(path / split / name)]
        require(
            len(empty) < len(folders(path / split)),
            "dataset.path",
            dataset.path,
            f"{split} holds no image: there is no {', '.join(SUFFIXES)} file in a folder of a class",
            f"Put the images of each class into {path / split / 'CLASS'}.",
        )
        require(
            not empty,
            "dataset.path",
            dataset.path,
            f"holds no image of {_named(empty)} in {split}: there is no {', '.join(SUFFIXES)} file",
            "Put images there, or delete the folder in every split.",
        )
        named = [file for name in folders(path / split) for file in _images(path / split / name)]
        # A pipe would be waited for forever.
        readable = (file.is_file() and os.access(file, os.R_OK) for file in named)
        strange = [file.relative_to(path).as_posix() for file, is_so in zip(named, readable, strict=True) if not is_so]
        require(
            not strange,
            "dataset.path",
            dataset.path,
            f"holds what is named like an image and is no file that may be read: {_named(sorted(strange))}",
            "Delete or rename it, or let yourself read it.",
        )
    # To TFDS every folder is a split, and its labels are the classes of all of them.
    for split in folders(path):
        found = set(folders(path / split))
        differing = found ^ set(classes) if split == dataset.test_split else found - set(classes)
        require(
            not differing,
            "dataset.path",
            dataset.path,
            f"{dataset.train_split} and {split} hold different classes: one of them alone has "
            f"{_named(sorted(differing))}",
            "Give both the same folders of classes.",
        )
    require(
        len(classes) > 1,
        "dataset.path",
        dataset.path,
        f"needs at least two classes, and {dataset.train_split} has only {_named(classes)}",
        "Put the images of another class into a folder beside it, in every split.",
    )
    return classes


def _images(folder: Path) -> list[Path]:
    return [file for file in folder.iterdir() if file.suffix.lower() in SUFFIXES]


def _named(items: list[str]) -> str:
    more = f" and {len(items) - MAX_NAMED} more" if len(items) > MAX_NAMED else ""
    return ", ".join(items[:MAX_NAMED]) + more


@functools.lru_cache(maxsize=2)  # The two splits of one folder: every run of a study in this process shares them.
def _decode(
    folder: Path, split: str, image_shape: tuple[int, int, int], step: int | None, background: int, corrupt: Corrupt
) -> ImageSplit:
    """Decodes a split: all images resized to one size, or with a `step` at their natural ones (see `to_step`)."""
    import psutil

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
        shown = _named([file.relative_to(folder).as_posix() for file in sorted(ignored)])
        log.warning("Left out of %s, neither %s: %s", split, ", ".join(SUFFIXES), shown)
    names = builder.info.features["label"].names
    require(
        len(set(labels)) == len(names),
        "dataset.corrupt",
        corrupt.value,
        f"{split} has no readable image of {_named([name for label, name in enumerate(names) if label not in labels])}",
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
    import tensorflow as tf
    import tensorflow_datasets as tfds

    def pixels_or_problem(content: bytes) -> tuple[np.ndarray, bytes]:
        try:
            return pixels(content, channels, background), b""
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
    """Decodes a file of any kind that Pillow knows to uint8 (H, W, channels), upright.

    Args:
        content: Of the file.
        channels: 1 or 3. Colors become gray by ITU-R 601's luma, 0.299 R + 0.587 G + 0.114 B.
        background: Gray level under transparent pixels.
    """
    from PIL import Image, ImageOps

    image = ImageOps.exif_transpose(Image.open(io.BytesIO(content)))
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
        f"{len(unreadable)} of the {count} files of {split} cannot be read as images: {_named(unreadable)}",
        "Mend or delete them, or leave them out with dataset.corrupt=skip.",
    )
    for file in unreadable:
        log.warning("Skipped: %s cannot be read as an image", file)
    if unreadable:
        log.warning("Skipped %d of the %d files of %s", len(unreadable), count, split)
