"""Which images are trained and tested on."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import ClassVar

from omegaconf import MISSING

from pipeline.common.errors import printable
from pipeline.common.files import expanded
from pipeline.common.settings import Settings


class Cache(Enum):
    """Where decoded images wait between epochs."""

    memory = "memory"
    disk = "disk"
    none = "none"


@dataclass
class Dataset(Settings):
    """A TFDS image-classification dataset.

    Attributes:
        name: TFDS name; a builder's configuration follows after a slash.
        version: TFDS version such as `3.0.1`; null for the newest.
        train_split: Split to train on, minus the validation part.
        test_split: Split to report on; it never chooses anything.
        validation_fraction: Share of the training split that is held out, drawn by the run's seed from every class.
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

    group: ClassVar[str] = "dataset"

    def __post_init__(self) -> None:
        self.require_short("name", "fashion_mnist")
        self.require("validation_fraction", 0.0 <= self.validation_fraction < 1.0, "must lie in [0, 1)", example=0.1)
        self.require_image_size("image_size", "[64,64]")
        self.require(
            "version",
            self.version is None or re.fullmatch(r"(\d+|\*)(\.(\d+|\*)){2}", self.version) is not None,
            "must be null or three numbers",
            "Use for example dataset.version=3.0.1, or null for the newest.",
        )
        self.require_at_least("max_sizes", 1, 64)
        self.require_at_least("size_step", 1, 16)
        self.require(
            "cache",
            self.cache is not Cache.none or not self.native_size,
            "images of natural size (dataset.native_size=true) are kept in memory",
            "Use dataset.cache=memory.",
        )
        self.require_at_least("shuffle_buffer", 1, 10_000)


class Corrupt(Enum):
    """What is done about files that cannot be read as images: they are refused, or skipped."""

    refuse = "refuse"
    skip = "skip"


class Duplicates(Enum):
    """What is done about images that are in more than one split: they are refused, or allowed."""

    refuse = "refuse"
    allow = "allow"


@dataclass
class ImageFolder(Dataset):
    """A folder of image files, `PATH/train/CLASS/*.png` and `PATH/test/CLASS/*.jpg`.

    Settings of `Dataset` that are not named here mean the same; splits are folders in PATH, and have no parts. If one
    of them is `val`, `validation` or `valid`, its images are the validation images, and `validation_fraction` draws
    none; 0 leaves them out.

    Attributes:
        name: Names the results; empty for the folder's own name.
        path: The folder.
        channels: 1 brings all images to grayscale, 3 to RGB.
        background: Gray level, 0 to 255, that transparent pixels are laid over.
        corrupt: What is done about files that cannot be read as images.
        test_fraction: Share of the images to test on, for a folder without splits, `PATH/CLASS/*.png`: drawn from
            every class, the same for every seed; null for a folder with splits.
        duplicates: What is done about images that are trained on, and validated or tested on too.
    """

    name: str = ""
    path: str = MISSING
    image_size: list[int] | None = field(default_factory=lambda: [32, 32])
    channels: int = 3
    background: int = 0
    corrupt: Corrupt = Corrupt.refuse
    test_fraction: float | None = None
    duplicates: Duplicates = Duplicates.refuse
    cache: Cache = Cache.memory

    def __post_init__(self) -> None:
        self.name = self.name or printable(self.folder.name) or "image_folder"
        super().__post_init__()
        self.require(
            "image_size",
            self.image_size is not None,
            "is needed: images of a folder may vary in size",
            "Use for example dataset.image_size=[32,32], and dataset.native_size=true to resize nothing.",
        )
        self.require("channels", self.channels in (1, 3), "must be 1 (grayscale) or 3 (RGB)", "Use dataset.channels=3.")
        self.require(
            "background",
            0 <= self.background <= 255,
            "must be a gray level in [0, 255]",
            "Use dataset.background=0 for black.",
        )
        self.require(
            "test_fraction",
            self.test_fraction is None or 0 < self.test_fraction < 1,
            "must be null or lie in (0, 1)",
            example=0.2,
        )
        self.require(
            "cache",
            self.cache is Cache.memory,
            "an image folder is decoded once, into memory",
            "Use dataset.cache=memory.",
        )
        for key in ("version", "data_dir"):
            self.require(
                key,
                getattr(self, key) is None,
                "has no meaning for an image folder, which lies where dataset.path says",
                f"Use dataset.{key}=null.",
            )

    @property
    def folder(self) -> Path:
        """The folder, absolute."""
        return expanded(self.path).absolute()
