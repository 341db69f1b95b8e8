"""What a trained model is made of: extractor, collapse, Dense layers."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from pipeline.common.errors import UserError
from pipeline.common.size import Size

if TYPE_CHECKING:
    import keras


class Collapse(Enum):
    """How a model turns its feature map into a vector."""

    flatten = "Flatten"
    """Every cell on its own; pooling over part of the map before it counts as part of the extractor."""
    average = "AveragePooling2D over the whole map"
    global_average = "GlobalAveragePooling2D"
    max = "MaxPooling2D over the whole map"
    global_max = "GlobalMaxPooling2D"


class NotRecognizedError(UserError):
    """The model is not an extractor, a known collapse, and Dense layers."""


@dataclass(frozen=True)
class Parts:
    """A trained model, taken apart.

    Attributes:
        extractor: From images (N, ?, ?, C) to feature maps (N, ?, ?, F).
        collapse: How the map becomes a vector.
        dense: What turns the vector into the model's outputs: Dense layers, and what `vector_layers` knows. None of
            them where the map has a channel a class, whose mean is the output.
        map_size: Height and width of the feature map at the size of training.
        image_size: That size, in pixels.
        before_dense: Those of `dense` that come before the first Dense layer; all of them if there is none.
    """

    extractor: keras.Model
    collapse: Collapse
    dense: tuple[keras.Operation, ...]
    map_size: Size
    image_size: Size
    before_dense: tuple[keras.Operation, ...] = ()

    @property
    def has_dense(self) -> bool:
        """Whether there is a Dense layer."""
        return len(self.before_dense) < len(self.dense)
