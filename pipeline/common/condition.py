"""The conditions that a model is tested under: at its training size, or at another that is made and run in some way."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum

AS_IS = ""
"""The model as it was trained, beside the names of the ways to run it."""


class Mode(Enum):
    """How an image of another size is made; the value names the mode in metrics, columns and files.

    Attributes:
        short: For a cell of a table.
        label: For a curve or an axis.
        heading: For a chart of its own.
    """

    RESIZE = ("resize", "resized", "image resized", "image resized")
    CANVAS = ("canvas", "on a canvas", "on a canvas", "image at its scale on a canvas, or its centre")

    short: str
    label: str
    heading: str

    def __new__(cls, value: str, short: str, label: str, heading: str) -> Mode:
        mode = object.__new__(cls)
        mode._value_, mode.short, mode.label, mode.heading = value, short, label, heading
        return mode


@dataclass(frozen=True)
class Condition:
    """What a trained model is asked.

    Attributes:
        mode: How the images are made; None for the test images as they are, at the training size.
        height: Of the images in pixels; 0 for the test images as they are.
        way: Name of the way that the model is run in, or `AS_IS`.
    """

    mode: Mode | None = None
    height: int = 0
    way: str = AS_IS

    def __str__(self) -> str:
        """`test`, `resize_035px` or `resize_035px.global_pool`, as columns are named."""
        if self.mode is None:
            return "test"
        return f"{self.mode.value}_{self.height:03d}px" + (f".{self.way}" if self.way else "")

    @classmethod
    def parse(cls, text: str) -> Condition | None:
        """The condition of that name; None if it is no condition's."""
        if text == "test":
            return TEST
        modes = "|".join(mode.value for mode in Mode)
        match = re.fullmatch(rf"({modes})_([0-9]{{1,5}})px(?:\.(\w+))?", text)
        if match is None:
            return None
        mode = next(mode for mode in Mode if mode.value == match[1])
        return cls(mode, int(match[2]), match[3] or AS_IS)

    def words(self, native: str) -> str:
        """`28 px`, or `35 px, resized`; `native` is what to say of the training size."""
        return native if self.mode is None else f"{self.height} px, {self.mode.short}"

    @property
    def order(self) -> tuple[bool, str, int, str]:
        """Sorts the training size first, and then by mode and height."""
        return (self.mode is not None, self.mode.value if self.mode else "", self.height, self.way)


TEST = Condition()
"""The test images as they are."""


def way_text(way: str) -> str:
    """The name of a way, or that the model is run as it is."""
    return "as it is" if way == AS_IS else way


def at_height(mode: Mode, height: int, test_height: int | None, way: str = AS_IS) -> Condition:
    """The condition of images of a height in pixels; `TEST` where that is the height of the test images."""
    return TEST if height == test_height else Condition(mode, height, way)
