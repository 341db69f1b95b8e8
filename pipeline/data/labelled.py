"""Labelled images for a model that is there already, brought to its size: a folder's, or a dataset's test split."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.common.errors import printable, require, the_first_of
from pipeline.data.folder_files import SplitFiles, list_labelled
from pipeline.data.image_folder import decode_labelled
from pipeline.data.settings import Dataset, ImageFolder
from pipeline.data.source import describe, open_test
from pipeline.data.splits import ImageSplit


@dataclass(frozen=True)
class Taker:
    """What a model takes and gives.

    Attributes:
        typed: What was typed to name it, for messages.
        image_shape: (H, W, C) of its training images.
        outputs: How many it has, one a class.
        class_names: Of its outputs, in their order; None if nothing names them.
    """

    typed: str
    image_shape: tuple[int, int, int]
    outputs: int
    class_names: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Labelled:
    """Images of one size, and which output of a model each belongs to.

    Attributes:
        name: Of the folder or the dataset.
        split: The images.
        labels: int64 (N,): the output that should be the largest, of the first N images.
    """

    name: str
    split: ImageSplit
    labels: np.ndarray

    def batches(self, batch_size: int) -> Iterator[np.ndarray]:
        """The images in order, uint8 (n, H, W, C)."""
        for images, _ in self.split.in_order(np.arange(len(self.labels)), batch_size).as_numpy_iterator():
            yield images


def open_folder(path: str, taker: Taker, limit: int | None) -> Labelled:
    """The images of DIR/CLASS/*.png, or as many as `limit`, drawn from all of them, the same each time.

    Raises:
        ConfigError: The folder cannot be read, or its classes are not those of the model.
    """
    channels = taker.image_shape[2]
    rule = f"takes images of {channels} channels, and those of a folder have 1 or 3"
    require(channels in (1, 3), "model", taker.typed, rule, "Give a dataset of such images, dataset=NAME.")
    classes, files = list_labelled(path, "images")
    place = _outputs_of(classes, taker, "images", path)
    some = SplitFiles(files.name, files.paths[:limit], files.labels[:limit])
    split = decode_labelled("images", path, some, taker.image_shape)
    return Labelled(printable(files.name), split, place[split.labels])


def open_dataset(dataset: Dataset, taker: Taker, limit: int | None, cache_dir: Path) -> Labelled:
    """The test split of a dataset, or its first `limit` images, resized to the model's size whatever it says itself.

    Raises:
        UserError: It cannot be opened, or its classes or channels are not those of the model.
    """
    *size, channels = taker.image_shape
    sized = dataclasses.replace(dataset, image_size=size, native_size=False)
    if isinstance(sized, ImageFolder):
        sized = dataclasses.replace(sized, channels=channels)
    facts = describe(sized)
    rule = f"its images have {facts.channels} channels, and {taker.typed} takes {channels}"
    require(facts.channels == channels, "dataset", facts.name, rule, "Use another dataset.")
    place = _outputs_of(facts.class_names, taker, "dataset", facts.name)
    split = open_test(sized, facts, cache_dir)
    return Labelled(facts.name, split, place[split.labels[:limit]])


def _outputs_of(classes: Sequence[str], taker: Taker, key: str, value: str) -> np.ndarray:
    """Which output of the model each class is, (K,): by name where its outputs have names, by order where not."""
    if taker.class_names is not None:
        unknown = [name for name in classes if name not in taker.class_names]
        rule = f"has classes that {taker.typed} does not have: {the_first_of(unknown)}"
        remedy = f"Its classes are {the_first_of(taker.class_names)}."
        require(not unknown, key, value, rule, remedy)
        return np.array([taker.class_names.index(name) for name in classes])
    require(
        len(classes) == taker.outputs,
        key,
        value,
        f"has {len(classes)} classes ({the_first_of(classes)}), and {taker.typed} has {taker.outputs} outputs",
        "Give images of the classes that it was trained on, a folder a class.",
    )
    return np.arange(len(classes))
