"""Bilinear, antialiased resizing as two matrix products, which formats can hold that have no operation for it.

TensorFlow's own skips the cells that a row or column does not look at: on large images it is many times faster, on
small ones slower. So it stays in Keras's models, and gives way to this where they are exported.
"""

from __future__ import annotations

import keras
import numpy as np
from keras import KerasTensor, ops

from pipeline.common.size import Size
from pipeline.models.graph import again, is_graph


def with_matrix_resize(model: keras.Model) -> keras.Model:
    """The same layers, in which every bilinear, antialiased `keras.ops.image.resize` is `matrix_resize`."""
    if not is_graph(model):
        return model
    graph, used = again(model, keras.Input(model.input_shape[1:], dtype=model.inputs[0].dtype))
    if not any(_is_antialiased(call.operation) for call in used):
        return model
    return keras.models.clone_model(
        graph,
        input_tensors=keras.Input(model.input_shape[1:], dtype=model.inputs[0].dtype),
        clone_function=lambda operation: operation,
        call_function=lambda operation, *args, **kwargs: (
            matrix_resize(args[0], operation.size) if _is_antialiased(operation) else operation(*args, **kwargs)
        ),
    )


def matrix_resize(images: KerasTensor, size: Size) -> KerasTensor:
    """Resizes float32 (N, H, W, C), H and W known or not, to (N, *size, C).

    What `keras.ops.image.resize(images, size, "bilinear", antialias=True)` gives, to rounding; the same images where
    they have that size.
    """
    rows = ops.einsum("ih,nhwc->niwc", _weights(images, 1, size[0]), images)
    resized = ops.einsum("jw,niwc->nijc", _weights(images, 2, size[1]), rows)
    return ops.reshape(resized, (-1, *size, images.shape[-1]))  # Keras loses the shape of a lone row.


def _weights(images: KerasTensor, axis: int, length: int) -> KerasTensor:
    """How much each cell along an axis, 1 or 2, counts in each of `length` new ones: float32 (length, cells).

    Cell h of m has its centre at (h + ½) / m of the axis, the new cell i of n at (i + ½) / n. A triangle as wide as the
    larger of both kinds of cells is laid on the latter. All of that times 2·m·n is whole numbers.
    """
    line = images[:1, :, 0, 0] if axis == 1 else images[:1, 0, :, 0]
    # A symbolic tensor has no size yet: its cells are counted when there are some.
    position = ops.cumsum(ops.cast(ops.ones_like(line), "int32"), axis=1)  # 1 … m
    cells = ops.max(position, axis=1, keepdims=True)
    centres = ops.multiply(ops.subtract(ops.multiply(position, 2), 1), length)
    new_centres = ops.multiply(cells, 2 * np.arange(length, dtype="int32").reshape(-1, 1) + 1)
    reach = ops.multiply(ops.maximum(cells, length), 2)
    inside = ops.maximum(ops.subtract(reach, ops.abs(ops.subtract(centres, new_centres))), 0)
    weights = ops.cast(inside, "float32")
    return ops.divide(weights, ops.sum(weights, axis=1, keepdims=True))


def _is_antialiased(operation: keras.Operation) -> bool:
    """Whether it is what bilinear, antialiased `keras.ops.image.resize` leaves in a graph, without crops or padding."""
    return (
        type(operation).__name__ == "Resize"
        and (operation.interpolation, operation.antialias, operation.data_format) == ("bilinear", True, "channels_last")
        and not (operation.crop_to_aspect_ratio or operation.pad_to_aspect_ratio)
    )
