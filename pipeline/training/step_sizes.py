"""Training at several image sizes: the size of each step, and how many images it has."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from pipeline.common.size import Size
from pipeline.data.batches import Data, SizedSteps
from pipeline.training.settings import BatchCounts, SizeSchedule, Training


def sized_steps(data: Data, training: Training) -> SizedSteps | None:
    """The sizes of all steps of a training; None where all are of the images' own size.

    A function of the settings, the seed and the number of images, so that it is the same for every head.
    """
    if training.sizes is None:
        return None
    heights, count = np.sort(training.sizes), len(data.train_indices)
    if training.batch_counts is BatchCounts.pixels:
        return _equal_pixels(heights, count, training, data.facts.image_size, data.seed)
    steps = math.ceil(count / training.batch_size)
    shape = training.epochs, steps
    images = np.full(shape, training.batch_size)
    images[:, -1] = count - (steps - 1) * training.batch_size
    if training.size_schedule is SizeSchedule.progressive:
        drawn = np.arange(math.prod(shape)).reshape(shape) * len(heights) // math.prod(shape)
    else:
        drawn = np.stack([_draw(data.seed, epoch).integers(len(heights), size=steps) for epoch in range(shape[0])])
    return SizedSteps(heights[drawn], images)


def steps_per_epoch(data: Data, training: Training) -> int:
    """Batches in an epoch of `train_batches`."""
    sized = sized_steps(data, training)
    return data.steps_per_epoch(training.batch_size) if sized is None else sized.heights.shape[1]


def _equal_pixels(heights: np.ndarray, count: int, training: Training, native: Size, seed: int) -> SizedSteps:
    """In each epoch every size gets an equal share of the images, and the steps of all sizes come in a new order."""
    steps: list[tuple[int, int]] = []
    for height, share in zip(heights.tolist(), _shares(count, len(heights)), strict=True):
        most = training.images_of_step(native, height)
        steps += [(height, min(most, share - start)) for start in range(0, share, most)]
    orders = [_draw(seed, epoch).permutation(len(steps)) for epoch in range(training.epochs)]
    ordered = np.array(steps)[np.stack(orders)]
    return SizedSteps(ordered[..., 0], ordered[..., 1])


def _shares(count: int, parts: int) -> Sequence[int]:
    """`count` in parts that differ by one at most."""
    return [count // parts + (part < count % parts) for part in range(parts)]


def _draw(seed: int, epoch: int) -> np.random.Generator:
    return np.random.default_rng([seed, epoch])
