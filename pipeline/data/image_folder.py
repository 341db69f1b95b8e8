"""Folders of image files, decoded by Pillow.

TensorFlow's decoders drop the alpha channel, which shows whatever color transparent pixels happen to have, and do not
know every kind of PNG and JPEG; Pillow's do.
"""

from __future__ import annotations

import errno
import functools
import hashlib
import io
import logging
import math
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import psutil
import tensorflow as tf
from PIL import Image, ImageOps, UnidentifiedImageError

from pipeline.common.errors import class_and_first_line, printable, require, the_first_of
from pipeline.data.facts import DatasetFacts
from pipeline.data.folder_files import FolderFiles, SplitFiles, list_files
from pipeline.data.natural_sizes import NaturalSplit, check_room, to_step
from pipeline.data.settings import Corrupt, Duplicates, ImageFolder
from pipeline.data.splits import DecodedSplit, ImageSplit
from pipeline.data.tf_data import resize, without_autotune

log = logging.getLogger("pipeline")

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
"""What such a file may be, whatever its name says. Of Pillow's others, some start programs (EPS Ghostscript)."""


VERSION = "1.0.0"
"""Recorded as the version of every folder, whose content counts by its digest."""
LARGEST_FILE = 2**30
"""Bytes of a file that may be an image. The pixels that Pillow decodes at most have fewer, in any format."""


def describe(dataset: ImageFolder) -> DatasetFacts:
    """What a folder holds, by the names of its folders and files; reads no image.

    Raises:
        ConfigError: See `list_files`.
    """
    assert dataset.image_size is not None
    height, width = dataset.image_size
    return DatasetFacts(
        name=dataset.name,
        version=VERSION,
        image_shape=(height, width, dataset.channels),
        class_names=list_files(dataset).classes,
        natural=dataset.native_size,
    )


def open_splits(dataset: ImageFolder, facts: DatasetFacts, cache_dir: Path) -> tuple[ImageSplit, ImageSplit]:
    """The split to train on and the one to test on, in memory: nothing goes to `cache_dir`."""
    step = dataset.size_step if dataset.native_size else None
    return decode_folder(
        list_files(dataset), facts.image_shape, step, dataset.background, dataset.corrupt, dataset.duplicates
    )


@functools.lru_cache(maxsize=1)  # Every run of a study in this process shares it.
def decode_folder(
    files: FolderFiles,
    image_shape: tuple[int, int, int],
    step: int | None,
    background: int,
    corrupt: Corrupt,
    duplicates: Duplicates,
) -> tuple[ImageSplit, ImageSplit]:
    """Decodes both splits: all images resized to one size, or with a `step` at their natural ones (see `to_step`)."""
    for note in files.notes:
        log.warning("%s", note)
    train, of_train = _decode(files, files.train, image_shape, step, background, corrupt)
    test, of_test = _decode(files, files.test, image_shape, step, background, corrupt)
    # The images of a folder of validation images are the last.
    only_trained = len(of_train) - (0 if train.set_apart is None else len(train.set_apart))
    contents = list(of_train.items())
    trained, validated = dict(contents[:only_trained]), dict(contents[only_trained:])
    _check_copies(f"the {len(validated)} validation images", validated, trained, duplicates)
    _check_copies(f"the {len(test)} images of {test.name}", of_test, of_train, duplicates)
    return train, test


def _check_copies(what: str, held_out: dict[str, bytes], trained: dict[str, bytes], duplicates: Duplicates) -> None:
    """Raises `ConfigError` if images are among those trained on, or warns where that is allowed.

    Args:
        what: The images that are not to be.
        held_out: The digest of the content of each of their files by its name.
        trained: The same of those that are trained on, or chosen by.
        duplicates: What is done about it.
    """
    names = {content: name for name, content in trained.items()}
    shared = sorted(f"{name} is {names[content]}" for name, content in held_out.items() if content in names)
    said = f"{len(shared)} of {what} are used in training too: {the_first_of(shared)}"
    require(
        not shared or duplicates is Duplicates.allow,
        "dataset.duplicates",
        duplicates.value,
        said,
        "Delete them in one of the places, or insist with dataset.duplicates=allow.",
    )
    if shared:
        log.warning("dataset.duplicates=allow: %s", said)


def decode_labelled(key: str, path: str, split: SplitFiles, image_shape: tuple[int, int, int]) -> DecodedSplit:
    """Decodes the images of a folder without splits, resized to one shape (H, W, C), with C 1 or 3.

    Args:
        key: The setting that names the folder, for messages.
        path: What was typed.
        split: Its files.
        image_shape: Of each image.

    Raises:
        ConfigError: A file cannot be read as an image, or memory does not hold them all.
    """
    needed, free = len(split.paths) * math.prod(image_shape), psutil.virtual_memory().available
    room = f"its images take {needed / 1e9:.1f} GB of memory, and {free / 1e9:.1f} GB are free"
    require(needed < free, key, path, room, "Use fewer images, size_probe.max_images=1000.")
    images = np.empty((len(split.paths), *image_shape), np.uint8)
    digest = hashlib.sha256(split.name.encode(errors="surrogateescape"))
    unreadable: list[str] = []
    resized = functools.partial(resize, size=image_shape[:2])
    for index, (image, content, problem) in enumerate(_read(split.paths, image_shape[2], 0, resized)):
        images[index] = image
        digest.update(os.fsencode(split.paths[index]) + content)
        if problem:
            unreadable.append(f"{printable(str(split.paths[index]))} ({problem.decode()})")
    rule = f"{len(unreadable)} of {len(images)} files cannot be read as images: {the_first_of(unreadable)}"
    require(not unreadable, key, path, rule, "Mend or delete them.")
    return DecodedSplit(printable(split.name), digest.hexdigest()[:32], images, np.array(split.labels, np.int64))


def _decode(
    files: FolderFiles,
    split: SplitFiles,
    image_shape: tuple[int, int, int],
    step: int | None,
    background: int,
    corrupt: Corrupt,
) -> tuple[ImageSplit, dict[str, bytes]]:
    """A split, and the digest of the content of each of its files by its name."""
    height, width, channels = image_shape
    count, free = len(split.paths), psutil.virtual_memory().available
    digest = hashlib.sha256(split.name.encode())
    images: list[np.ndarray] = []
    stacked = np.empty((count if step is None else 0, *image_shape), np.uint8)
    check_room(free - stacked.nbytes, split.name, 0, count)
    used: list[int] = []
    contents: dict[str, bytes] = {}
    unreadable: list[str] = []
    resized = functools.partial(resize, size=(height, width)) if step is None else functools.partial(to_step, step=step)
    for index, (image, content, problem) in enumerate(_read(split.paths, channels, background, resized)):
        path = split.paths[index].relative_to(files.folder)
        name = printable(path.as_posix())
        if problem:
            unreadable.append(f"{name} ({problem.decode()})")
            continue
        digest.update(os.fsencode(path) + content)
        if step is None:
            stacked[len(used)] = image
        else:
            images.append(image)
            free -= image.nbytes
            check_room(free, split.name, len(images), count)
        used.append(index)
        contents[name] = content
    _check_readable(split.name, unreadable, count, corrupt)
    labels, is_set_apart = np.array(split.labels)[used], np.array(used) >= count - split.set_apart
    without = [name for label, name in enumerate(files.classes) if label not in labels[~is_set_apart]]
    require(
        not without,
        "dataset.corrupt",
        corrupt.value,
        f"{split.name} has no readable image of {the_first_of(without)}",
        "Put images there, or delete the folder in every split.",
    )
    decoded: ImageSplit
    if step is None:
        decoded = DecodedSplit(split.name, digest.hexdigest()[:32], stacked[: len(labels)], labels)
    else:
        decoded = NaturalSplit(split.name, digest.hexdigest()[:32], images, labels, list(contents), (height, width))
    if split.set_apart:
        decoded.set_apart = np.flatnonzero(is_set_apart)
    return decoded, contents


def _read(
    paths: Sequence[Path], channels: int, background: int, resized: Callable[[tf.Tensor], tf.Tensor]
) -> Iterator[tuple[np.ndarray, bytes, bytes]]:
    """Image uint8 (H, W, C), digest of the content and what is wrong with it, of every file in their order."""

    def read(path: bytes) -> tuple[np.ndarray, bytes, bytes]:
        problem = ""
        try:
            content = _content(Path(os.fsdecode(path)))
            return pixels(content, channels, background), hashlib.sha256(content).hexdigest().encode(), b""
        except UnidentifiedImageError:  # Pillow's text names an object in memory, another one each time.
            problem = f"it is none of {', '.join(FORMATS)}"
        except OSError as error:  # Of the file system with the reason alone, of Pillow with its text.
            problem = error.strerror or class_and_first_line(error)
        except Exception as error:  # Pillow's decoders raise almost anything.
            problem = class_and_first_line(error)
        return np.zeros((1, 1, channels), np.uint8), b"", printable(problem).encode()

    def decoded(path: tf.Tensor) -> tuple[tf.Tensor, ...]:
        image, content, problem = tf.numpy_function(read, [path], [tf.uint8, tf.string, tf.string], stateful=False)
        return resized(tf.ensure_shape(image, (None, None, channels))), content, problem

    # As bytes: not every name is UTF-8.
    names = tf.data.Dataset.from_tensor_slices([os.fsencode(path) for path in paths])
    examples = names.map(decoded, num_parallel_calls=os.cpu_count(), deterministic=True)
    return without_autotune(examples).as_numpy_iterator()


def _content(path: Path) -> bytes:
    """The content of a regular file, or of one that a link leads to; from a pipe or a device there would be no end."""
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.EINVAL, "it is no regular file")
    if found.st_size > LARGEST_FILE:
        raise OSError(errno.EFBIG, f"it has {found.st_size / 1e9:.1f} GB")
    return path.read_bytes()


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
