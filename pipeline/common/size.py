"""Sizes of images and feature maps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pipeline.common.names import Param

Size = tuple[int, int]
"""Height and width, of an image in pixels or of a feature map in cells."""
NATURAL = "natural, about "
"""Before the reference size, where images keep their natural sizes."""


def size_text(size: Size) -> str:
    """`7×7` for `(7, 7)`."""
    return f"{size[0]}×{size[1]}"


def of_shape(native: Size, height: int) -> Size:
    """The size of a height in pixels whose width keeps the shape of `native` images."""
    return height, max(1, round(native[1] * height / native[0]))


@dataclass(frozen=True)
class TrainedSize:
    """The size of the images that a model is trained on.

    Attributes:
        reference: Height and width in pixels; of natural sizes, those at which cost is stated and around which other
            sizes are probed.
        natural: Whether the images keep their natural, varying sizes.
    """

    reference: Size
    natural: bool = False

    def __str__(self) -> str:
        """`28×28`, or `natural, about 28×28`."""
        return (NATURAL if self.natural else "") + size_text(self.reference)

    @property
    def height(self) -> int:
        return self.reference[0]

    @property
    def test_height(self) -> int | None:
        """Height of the test images in pixels; None with natural sizes."""
        return None if self.natural else self.height

    @property
    def in_words(self) -> str:
        """`28 px`, or `natural sizes`."""
        return "natural sizes" if self.natural else f"{self.height} px"

    def params(self) -> dict[str, str | int]:
        """What a run records of it; the text is for people, `recorded_size` reads the numbers."""
        height, width = self.reference
        return {Param.IMAGE_SIZE: str(self), Param.IMAGE_HEIGHT: height, Param.IMAGE_WIDTH: width}


def recorded_size(params: Mapping[str, str | None]) -> TrainedSize | None:
    """The size of a run's training images, from its params; None if it recorded none.

    Runs of before 2026-11-26 have the text alone.
    """
    text = params.get(Param.IMAGE_SIZE)
    if not isinstance(text, str):
        return None
    height, width = params.get(Param.IMAGE_HEIGHT), params.get(Param.IMAGE_WIDTH)
    if not (isinstance(height, str) and isinstance(width, str)):
        height, _, width = text.removeprefix(NATURAL).partition("×")
    if not (height.isdigit() and width.isdigit()):
        return None
    return TrainedSize((int(height), int(width)), natural=text.startswith(NATURAL))
