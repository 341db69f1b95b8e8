"""Where decoded images are kept on disk, and how those of known labels are found there again, without TensorFlow."""

from __future__ import annotations

import glob
from pathlib import Path

import numpy as np

from pipeline.common.size import Size
from pipeline.data.made_once import open_array

IMAGES = "images.npy"
LABELS = "labels.npy"


def directory_of(cache_dir: Path, dataset: str, digest: str, shape: tuple[int, int, int]) -> Path:
    """Where images of a shape (H, W, C) of a split with a digest are kept."""
    return cache_dir / f"{_plain(dataset)}-{digest}-{'x'.join(map(str, shape))}"


def find_images(cache_dir: Path, dataset: str, labels: np.ndarray, size: Size) -> np.ndarray | None:
    """The images of a dataset that have these labels, in their order, as an earlier run has decoded them.

    Args:
        cache_dir: Of an `output_dir`.
        dataset: Its name.
        labels: Class of each image, int (N,): they tell the split.
        size: Height and width of the images in pixels.

    Returns:
        uint8 (N, H, W, C), memory-mapped; None where no such images are kept.
    """
    height, width = size
    for directory in sorted(cache_dir.glob(f"{glob.escape(_plain(dataset))}-*-{height}x{width}x*")):
        channels = directory.name.rpartition("x")[2]
        try:
            found = open_array(directory / LABELS, np.int64, labels.shape)
            if channels.isdigit() and np.array_equal(found, labels):
                return open_array(directory / IMAGES, np.uint8, (len(labels), height, width, int(channels)))
        except (OSError, EOFError, ValueError):  # Of another split, or damaged.
            continue
    return None


def _plain(dataset: str) -> str:
    return dataset.replace("/", "-")
