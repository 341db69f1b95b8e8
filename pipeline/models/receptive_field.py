"""How much of an image one cell of a feature map depends on, and how far apart cells lie.

Both are found by running the layers, see `reach`, and not by rules for each kind of layer: they hold for residual
connections, dilation, pooling, padding of any kind, and for layers that look at the whole map. For a plain chain of
layers with kernels k and strides s they are what the formulas say: rₗ = rₗ₋₁ + (kₗ − 1) · jₗ₋₁ and jₗ = jₗ₋₁ · sₗ
(Araujo, Norris, Sim, "Computing Receptive Fields of Convolutional Neural Networks", Distill, 2019).
"""

from __future__ import annotations

from dataclasses import dataclass

import keras
import numpy as np

from pipeline.common.size import Size, size_text
from pipeline.models.reach import Reach

LENGTHS = tuple(2**power for power in range(6, 13))
"""Of the images that are tried, 64 to 4,096 px along the axis that is measured; a field has to fit into one of them."""
WIDTHS = (8, *range(32, 513, 32))
"""Of these images along the other axis, in px: the first that leaves a map is taken, so that they stay small."""
MOST_CELLS = 4096
"""Of a map that is looked at: a layer of attention compares each of them with each."""
GROWTH = 2**6 * 3**2 * 5 * 7 * 11 * 13
"""Pixels by which an image grows, in thought alone, to tell the stride: a multiple of nearly every stride there is."""


@dataclass(frozen=True)
class ReceptiveField:
    """What one cell of a feature map sees of an image.

    Attributes:
        size: Height and width in pixels of the smallest rectangle around all pixels that a cell in the middle of a
            large map can depend on; None if that is all of the largest image that was tried, as with
            squeeze-and-excitation.
        stride: The total stride along height and width: by how many pixels an image grows for each cell that its map
            grows by. So far apart lie neighbouring cells.
    """

    size: Size | None
    stride: tuple[float, float]

    @property
    def size_text(self) -> str:
        """`13×13`, or `whole image`."""
        return "whole image" if self.size is None else size_text(self.size)

    @property
    def stride_text(self) -> str:
        """`4×4`."""
        return "×".join(f"{stride:g}" for stride in self.stride)

    def in_words(self, image: Size) -> str:
        """What a cell sees of images of a height and width in pixels, as a sentence without its full stop."""
        if self.size is None:
            sees = "the whole image"
        elif all(seen <= side for seen, side in zip(self.size, image, strict=True)):
            sees = f"{size_text(self.size)} of the {size_text(image)} px"
        else:
            sees = f"{size_text(self.size)} px, and the image has {size_text(image)}"
        rows, columns = self.stride
        apart = f"{rows:g}" if rows == columns else self.stride_text
        return f"a cell of the map sees {sees}; cells lie {apart} px apart"


def receptive_field_of(extractor: keras.Model, reach: Reach) -> ReceptiveField | None:
    """The receptive field of an extractor's cells, and their total stride.

    Args:
        extractor: From images (N, ?, ?, C) to feature maps (N, ?, ?, F).
        reach: What `reach_of` made of it.

    Returns:
        Both; None if the extractor takes none of the images that are tried.
    """
    try:
        (height, row_stride), (width, column_stride) = (_along(axis, extractor, reach) for axis in (0, 1))
    except Exception:  # Each layer has its own way of refusing an image, and no run depends on this.
        return None
    size = None if height is None or width is None else (height, width)
    return ReceptiveField(size, (row_stride, column_stride))


def _along(axis: int, extractor: keras.Model, reach: Reach) -> tuple[int | None, float]:
    """Field and stride in pixels along the height (axis 0) or the width (1) of images that are narrow along the other.

    Raises:
        ValueError: The extractor takes none of the images that are tried.
    """

    def image(length: int, across: int) -> Size:
        return (length, across) if axis == 0 else (across, length)

    longest = LENGTHS[-1]
    across = next((width for width in WIDTHS if _cells(extractor, image(longest, width)) != (0, 0)), WIDTHS[-1])
    maps = {length: _cells(extractor, image(length, across)) for length in (*LENGTHS, longest + GROWTH)}
    stride = round(GROWTH / (maps.pop(longest + GROWTH)[axis] - maps[longest][axis]), 2)
    tried = [length for length, cells in maps.items() if 0 < cells[0] * cells[1] <= MOST_CELLS]
    if not tried:
        raise ValueError(f"no image of at most {longest} px gives a map of 1 to {MOST_CELLS} cells")
    for length in tried:
        middle = np.zeros(maps[length], bool)
        middle[maps[length][0] // 2, maps[length][1] // 2] = True
        seen = np.flatnonzero(reach(middle, image(length, across)).any(axis=1 - axis))
        # A field that the border cuts off ends less than a stride from it: that many pixels at most, no cell sees.
        if seen[0] >= stride and seen[-1] + stride < length:
            return int(seen[-1] - seen[0]) + 1, stride
    return None, stride


def _cells(extractor: keras.Model, image: Size) -> Size:
    """Height and width of the map of an image; (0, 0) if there is none."""
    try:
        _, rows, columns, _ = extractor.compute_output_shape((None, *image, extractor.input_shape[-1]))
    except ValueError:
        return 0, 0
    return (rows, columns) if min(rows, columns) > 0 else (0, 0)
