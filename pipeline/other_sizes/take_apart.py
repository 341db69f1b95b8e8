"""A trained model, taken apart: extractor, collapse, Dense layers.

It is recognised by what it computes. A 1×1 convolution of a map of one cell is a Dense layer, and so is a convolution
whose window is the whole map, after Flatten. A mean or a maximum over both sides of the map is global pooling, and
Reshape to a vector is Flatten.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import keras
import numpy as np
from keras import KerasTensor

from pipeline.common.size import Size
from pipeline.models.graph import (
    Call,
    LayerRefusesError,
    calls,
    for_any_size,
    is_graph,
    operation_text,
    pools_whole_map,
)
from pipeline.other_sizes.parts import Collapse, NotRecognizedError, Parts
from pipeline.other_sizes.vector_layers import dense_like, is_alike, is_known, of_rank

_End = tuple[Collapse, KerasTensor, tuple[keras.Operation, ...]]
"""How the map becomes a vector, the map, and the layers on the vector."""


def take_apart(model: keras.Model, image_size: Size) -> Parts:
    """Finds extractor, collapse and Dense layers of a trained model. Its weights are shared, not copied.

    Weights of what is not a Dense layer on vectors but equal to one are copied into one.

    Args:
        model: A functional or Sequential model from images (N, H, W, C) or (N, ?, ?, C) to outputs (N, K), other models
            inside it or not.
        image_size: Height and width in pixels that it was trained on.

    Raises:
        NotRecognizedError: Says what could not be recognised.
    """
    if not is_graph(model):
        raise NotRecognizedError(
            f"The model is a {type(model).__name__}, which computes by code of its own; only functional and Sequential "
            "models can be taken apart."
        )
    if len(model.inputs) != 1 or len(model.outputs) != 1 or len(model.input_shape) != 4:
        shapes = ", ".join(str(tensor.shape) for tensor in [*model.inputs, *model.outputs])
        raise NotRecognizedError(f"The model has to have one input of images and one output; it has {shapes}.")
    images = keras.Input((*image_size, model.input_shape[-1]), dtype=model.inputs[0].dtype)
    try:
        used = calls(model, images)
    except LayerRefusesError as error:
        raise NotRecognizedError(
            f"{operation_text(error.operation)} does not take what comes to it from images of "
            f"{image_size[0]}×{image_size[1]} px."
        ) from error
    collapse, feature_map, dense = _end(used)
    try:
        extractor = for_any_size(keras.Model(images, feature_map))
    except LayerRefusesError as error:
        raise NotRecognizedError(
            f"What comes before the {collapse.value} is not fully convolutional: {operation_text(error.operation)} is "
            "for one image size alone."
        ) from error
    if len(extractor.output_shape) != 4 or extractor.output_shape[1:3] != (None, None):
        raise NotRecognizedError(
            f"What comes before the {collapse.value} is not fully convolutional: images of any size give a map of "
            f"shape {extractor.output_shape}."
        )
    before_dense = tuple(itertools.takewhile(lambda layer: not isinstance(layer, keras.layers.Dense), dense))
    return Parts(extractor, collapse, dense, (feature_map.shape[1], feature_map.shape[2]), image_size, before_dense)


def _end(used: Sequence[Call]) -> _End:
    """How a model ends, found from its last layer on backwards."""
    dense: list[keras.Operation] = []
    of_one_cell: _End | None = None
    rest = list(used)
    wanted = rest[-1].output if rest else None
    while rest and rest[-1].output is wanted and (before := rest[-1].input) is not None:
        call, several = rest[-1], _rearranging(rest)
        if pools_whole_map(call):
            of_one_cell = _pooling(call.operation), before, tuple(dense)
            if _cells(before) > 1:
                return of_one_cell
        elif several:
            before = several[0].inputs[0]
            if not _is_vector(before):
                return Collapse.flatten, before, _in_rows(dense, several)
            if before.ndim == 4:
                of_one_cell = Collapse.flatten, before, tuple(dense)
        elif _covers_the_map(call) and (of_one_cell is None or of_one_cell[0] is Collapse.flatten):
            return Collapse.flatten, before, (_dense_of(call.operation), *dense)
        elif (layer := _on_vectors(call)) is not None:
            dense.insert(0, layer)
        else:
            break
        del rest[-max(1, len(several)) :]
        wanted = before
    # A map of one cell in training, which larger images make larger.
    if of_one_cell is not None:
        return of_one_cell
    last = rest[-1] if rest else None
    if last is not None and last.output is not wanted:
        raise _unrecognized(last, "does not lead straight to the next layer")
    if last is not None and last.kwargs.get("training"):
        raise _unrecognized(last, "is called with training=True")
    known = "is neither Flatten nor pooling over the whole map" if dense else "is not a layer that gives the outputs"
    raise _unrecognized(last, known)


def _cells(feature_map: KerasTensor) -> int:
    return math.prod(feature_map.shape[1:3])


def _is_vector(tensor: KerasTensor) -> bool:
    """Whether it is a batch of vectors (N, F), or of maps of one cell (N, 1, 1, F)."""
    return tensor.ndim == 2 or (tensor.ndim == 4 and _cells(tensor) == 1)


def _pooling(operation: keras.Operation) -> Collapse:
    name = type(operation).__name__
    if isinstance(operation, keras.layers.AveragePooling2D):
        return Collapse.average
    if isinstance(operation, keras.layers.MaxPooling2D):
        return Collapse.max
    return Collapse.global_max if "Max" in name else Collapse.global_average


def _rearranging(rest: Sequence[Call]) -> list[Call]:
    """The last calls, if they make vectors of maps, or of vectors, by bringing numbers into another order alone."""
    kinds = keras.layers.Flatten | keras.layers.Reshape | keras.layers.Permute
    found: list[Call] = []
    reached = 0
    for call in reversed(rest):
        known = isinstance(call.operation, kinds) or type(call.operation).__name__ in (
            "Reshape",
            "Transpose",
            "Squeeze",
        )
        if not known or call.input is None or (found and found[0].input is not call.output):
            break
        found.insert(0, call)
        if call.input.ndim == 4 or _is_vector(call.input):
            reached = len(found)
            if call.input.ndim == 2:
                break
    found = found[len(found) - reached :]
    return found if found and _is_vector(found[-1].outputs[0]) else []


def _in_rows(dense: Sequence[keras.Operation], several: Sequence[Call]) -> tuple[keras.Operation, ...]:
    """The layers for a map that is flattened row by row, whatever the order in which the model does it."""
    shape = several[0].inputs[0].shape[1:]
    numbers = math.prod(shape)
    # Whole numbers: layers in half precision would round others.
    order = np.arange(numbers, dtype=np.int32).reshape(1, *shape)
    for call in several:
        order = call.operation(order)
    place = np.asarray(order).ravel().astype(np.int64)
    if np.array_equal(place, np.arange(numbers)):
        return tuple(dense)
    first = next((index for index, layer in enumerate(dense) if isinstance(layer, keras.layers.Dense)), None)
    if first is None or not all(map(is_alike, dense[:first])) or not np.array_equal(np.sort(place), np.arange(numbers)):
        raise _unrecognized(several[-1], "flattens the map in another order than row by row, and not for a Dense layer")
    kernel = dense[first].get_weights()[0]
    in_rows = np.empty_like(kernel)
    in_rows[place] = kernel
    return (*dense[:first], dense_like(dense[first], in_rows), *dense[first + 1 :])


def _is_convolution(operation: keras.Operation) -> bool:
    return (
        isinstance(operation, keras.layers.Conv2D)
        and operation.groups == 1
        and operation.data_format == "channels_last"
        and operation.dilation_rate == (1, 1)
    )


def _covers_the_map(call: Call) -> bool:
    """Whether it is a convolution whose window is the whole map, of more than one cell."""
    return (
        _is_convolution(call.operation)
        and call.operation.padding == "valid"
        and call.operation.kernel_size == call.inputs[0].shape[1:3] != (1, 1)
    )


def _dense_of(convolution: keras.layers.Conv2D) -> keras.layers.Dense:
    return dense_like(convolution, convolution.get_weights()[0])


def _on_vectors(call: Call) -> keras.Operation | None:
    """The layer as one on vectors; None if it is none, or not known."""
    operation, before = call.operation, call.inputs[0]
    if not _is_vector(before) or call.kwargs.get("training") or len(call.args) != 1:
        return None
    if isinstance(operation, keras.layers.Dense):
        return operation
    if before.ndim == 4 and _is_convolution(operation) and operation.kernel_size == (1, 1):
        return _dense_of(operation)
    if not is_known(operation, before.ndim):
        return None
    return operation if before.ndim == 2 else of_rank(operation, 2, before.shape[-1])


def _unrecognized(call: Call | None, what: str) -> NotRecognizedError:
    name = operation_text(call.operation) if call else "the input"
    return NotRecognizedError(
        f"The model's end could not be recognised: {name} {what}. It has to end in Flatten or in average or maximum "
        "pooling over the whole map, and after it, if anything, Dense layers or 1×1 convolutions with activations, "
        "dropout and normalizations of vectors alone."
    )
