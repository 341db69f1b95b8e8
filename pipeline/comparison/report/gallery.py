"""Where two arms part: test images that one of them gets right and the other wrong, side by side."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image

from pipeline.common.condition import TEST
from pipeline.common.size import Size
from pipeline.comparison.analysis import Group
from pipeline.comparison.report.classes import known_classes
from pipeline.comparison.settings import Asks

MOST = 8
"""Images of each kind that are shown."""
LARGEST = 96
"""Pixels of the longer side of a picture; larger images are made smaller, so that a report stays small."""

FindImages = Callable[[str, np.ndarray, Size], np.ndarray | None]
"""Images uint8 (N, H, W, C) of a dataset by its name, their labels (N,), height and width; None if not within reach."""


@dataclass(frozen=True)
class Picture:
    """One test image.

    Attributes:
        source: A PNG as a `data:` address.
        of: Its class.
        ahead: Seeds with which the arm that is mostly right is right.
        behind: The same of the other arm.
        seeds: How many there are.
    """

    source: str
    of: str
    ahead: int
    behind: int
    seeds: int


@dataclass(frozen=True)
class Gallery:
    """Images that one arm gets right and another wrong.

    Attributes:
        ahead: Name of the arm that is right.
        behind: Name of the one that is wrong.
        count: Test images of which that is true with more than half of the seeds more.
        pictures: Those on which the seeds agree most; of equals, the first in the dataset.
    """

    ahead: str
    behind: str
    count: int
    pictures: tuple[Picture, ...]


def galleries(group: Group, asks: Asks, find_images: FindImages) -> Iterator[Gallery]:
    """Both ways round, of the two main arms that differ most at the training size; none without images."""
    known = known_classes(group)
    compared = [found for found in group.comparisons if found.condition == TEST]
    compared = [found for found in compared if asks.is_primary(found.first, found.second)] or compared
    if known is None or not compared or group.trained.natural:
        return
    labels, names = known
    images = find_images(group.dataset, labels, group.trained.reference)
    if images is None:
        return
    most = max(compared, key=lambda found: abs(found.difference.mean))
    right = {name: group.arm(name).answers[TEST].sum(axis=0) for name in (most.first, most.second)}
    seeds = len(group.arm(most.first).seeds)
    for ahead, behind in ((most.first, most.second), (most.second, most.first)):
        lead = right[ahead] - right[behind]
        parted = np.flatnonzero(lead > seeds / 2)
        if len(parted) == 0:
            continue
        shown = parted[np.argsort(-lead[parted], kind="stable")][:MOST]
        pictures = (
            Picture(_png(images[at]), names[labels[at]], int(right[ahead][at]), int(right[behind][at]), seeds)
            for at in shown
        )
        yield Gallery(ahead, behind, len(parted), tuple(pictures))


def _png(image: np.ndarray) -> str:
    """An image, uint8 (H, W, C), as the address of a small picture."""
    picture = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
    picture.thumbnail((LARGEST, LARGEST))
    file = io.BytesIO()
    picture.save(file, "PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
