"""What of its feature map, and of an image, can change a trained model's outputs, by gradient.

The gradient is that of `models/reach.py`, of the outputs of the whole model: of its layers with other weights, all
positive, and of a random image. It is zero where no path leads from a pixel to an output, and nowhere else: neither a
softmax that saturates, nor a unit that is off, nor a maximum elsewhere hides a pixel.
"""

from __future__ import annotations

from collections.abc import Iterable

import keras
import numpy as np

from pipeline.common.errors import UserError, class_and_first_line
from pipeline.common.size import Size
from pipeline.models.graph import again, calls
from pipeline.models.reach import reach_of
from pipeline.other_sizes.parts import Parts

ONE_CELL = np.ones((1, 1), bool)


def seen_pixels(model: keras.Model, sizes: Iterable[Size]) -> dict[Size, np.ndarray]:
    """Which pixels of images of each size can change the outputs: bool (height, width).

    Args:
        model: From images (N, H, W, C) or (N, ?, ?, C) to outputs (N, K). Its weights are the same afterwards.
        sizes: Heights and widths in pixels that it takes.

    Raises:
        UserError: A layer of the model has no gradient.
    """
    weights = model.get_weights()
    try:
        reach = reach_of(keras.Model(model.inputs[0], keras.layers.Reshape((1, 1, -1))(model.outputs[0])))
        return {size: reach(ONE_CELL, size) for size in sizes}
    except Exception as error:  # A model of unknown origin can fail in any way.
        raise UserError(f"What the model sees cannot be measured: {class_and_first_line(error)}.") from error
    finally:
        model.set_weights(weights)


def after_the_map(model: keras.Model, parts: Parts) -> keras.Model:
    """What a model makes of its feature map, from (N, h, w, F) to outputs (N, K): its own layers, as they are."""
    same, used = again(model, keras.Input(model.input_shape[1:], dtype=model.inputs[0].dtype))
    # All that comes before the map leads to it, and nothing past it.
    before = len(calls(parts.extractor, keras.Input(parts.extractor.input_shape[1:], dtype=same.inputs[0].dtype)))
    return keras.Model(used[before - 1].output if before else same.inputs[0], same.outputs[0])
