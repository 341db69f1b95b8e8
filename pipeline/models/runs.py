"""At which image sizes a model for images of any size runs: found by running it, never reckoned."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property

import keras
import numpy as np
import tensorflow as tf

from pipeline.common.errors import first_line
from pipeline.common.size import Size, of_shape, size_text
from pipeline.models.graph import LayerRefusesError, calls, failing_call, operation_text
from pipeline.models.predict import compiled

NEIGHBOURS = 32
"""Heights in a row that are tried where gaps may be: as many as the strides of usual networks multiply to."""


@dataclass(frozen=True)
class Failure:
    """What happened at an image size that a model does not take.

    Attributes:
        size: Height and width in pixels.
        reason: What the library says, or that the outputs are no finite numbers.
        layer: What failed, as messages name it; None if no layer fails alone.
        before: Name of the layer whose output it failed on; None if that is the model's input.
    """

    size: Size
    reason: str
    layer: str | None = None
    before: str | None = None

    def __str__(self) -> str:
        return f"{self.layer or 'the model'} fails on images of {size_text(self.size)} px: {self.reason}"


def larger_sizes(native: Size) -> list[Size]:
    """1.5 times the height of the training images, twice, and twice and one; of their shape."""
    height = native[0]
    return [of_shape(native, larger) for larger in (round(1.5 * height), 2 * height, 2 * height + 1)]


class Runs:
    """Runs a model at image sizes.

    Args:
        model: From images (N, ?, ?, C). It is traced once for all sizes, as a program that uses it does.
    """

    def __init__(self, model: keras.Model) -> None:
        self._model = model

    @cached_property
    def _outputs(self) -> Callable[[tf.Tensor], tf.Tensor]:
        return compiled(self._model)

    def at(self, size: Size) -> str | None:
        """Why it does not run on an image of a size in pixels; None if it gives finite numbers."""
        try:
            outputs = self._outputs(tf.cast(self._images(size), self._model.inputs[0].dtype))
        except Exception as error:  # Each layer has its own way of failing.
            return first_line(error)
        if outputs.shape.num_elements() == 0:
            return "nothing is left of the image"
        return None if np.isfinite(outputs).all() else "the outputs are no finite numbers"

    def failures(self, sizes: Iterable[Size]) -> list[Failure]:
        """What fails at some sizes, with the layer that does."""
        return [self._failure(size, reason) for size in sizes if (reason := self.at(size)) is not None]

    def smallest(self, native: Size) -> Size:
        """The smallest image in pixels of the shape of `native` that it takes; those between the two are taken too."""
        fails, takes = 0, native[0]
        height = 1  # What resizes images or maps takes any.
        while takes - fails > 1:
            size = of_shape(native, height)
            fails, takes = (fails, height) if self.at(size) is None and self.is_left(size) else (height, takes)
            height = (fails + takes) // 2
        gap = self._gap(native, range(takes, min(takes + NEIGHBOURS, native[0])))
        return of_shape(native, takes) if gap is None else native

    def gap(self, native: Size) -> Size | None:
        """The first of the sizes next above `native` that it does not take; None if it takes those tried."""
        return self._gap(native, range(native[0] + 1, native[0] + 1 + NEIGHBOURS))

    def _gap(self, native: Size, heights: Iterable[int]) -> Size | None:
        """Strides may leave gaps: a network that wants even sizes fails at every second one."""
        sizes = (of_shape(native, height) for height in heights)
        return next((size for size in sizes if self.at(size) is not None), None)

    def is_left(self, size: Size) -> bool:
        """Whether every layer leaves something of an image: TensorFlow computes numbers even of maps without cells."""
        image = keras.Input((*size, self._model.input_shape[-1]), dtype=self._model.inputs[0].dtype)
        try:
            # Slices, which are no layers, may well be empty.
            layers = [call for call in calls(self._model, image) if isinstance(call.operation, keras.Layer)]
        except LayerRefusesError:
            return False
        return all(side is None or side > 0 for call in layers for output in call.outputs for side in output.shape)

    def _failure(self, size: Size, reason: str) -> Failure:
        try:
            found = failing_call(self._model, self._images(size))
        except LayerRefusesError as error:
            return Failure(size, reason, operation_text(error.operation))
        if found is None:
            return Failure(size, reason)
        call, cause = found
        producer = call.inputs[0]._keras_history.operation
        before = None if isinstance(producer, keras.layers.InputLayer) else producer.name
        # Compiled, the library says no more than that something failed.
        return Failure(size, reason if cause is None else first_line(cause), operation_text(call.operation), before)

    def _images(self, size: Size) -> np.ndarray:
        dtype, shape = self._model.inputs[0].dtype, (1, *size, self._model.input_shape[-1])
        generator = np.random.default_rng(0)
        images = generator.random(shape) if "float" in dtype else generator.integers(0, 256, shape)
        return images.astype("float32" if "float" in dtype else dtype)
