"""A trained model, taken apart: extractor, collapse, Dense layers."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import keras
from keras import KerasTensor

from pipeline.common.size import Size
from pipeline.models.graph import Call, LayerRefusesError, calls, for_any_size, is_graph, operation_text
from pipeline.other_sizes.parts import Collapse, NotRecognizedError, Parts


def take_apart(model: keras.Model, image_size: Size) -> Parts:
    """Finds extractor, collapse and Dense layers of a trained model. Its weights are shared, not copied.

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
    used = calls(model, images)
    dense, before = _dense_layers(used)
    collapse, feature_map = _collapse(before)
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


def _dense_layers(used: Sequence[Call]) -> tuple[tuple[keras.Layer, ...], list[Call]]:
    """The layers on vectors at the end of a model, and the calls before them."""
    known = (
        *(keras.layers.Dense, keras.layers.Dropout, keras.layers.BatchNormalization),
        *(keras.layers.Activation, keras.layers.ReLU, keras.layers.LeakyReLU, keras.layers.Softmax),
    )
    rest = list(used)
    dense: list[keras.Layer] = []
    while rest and isinstance(rest[-1].operation, known) and rest[-1].input is not None and rest[-1].input.ndim == 2:
        call = rest.pop()
        dense.insert(0, call.operation)
        if rest and rest[-1].output is not call.input:
            raise _unrecognized(rest[-1], "does not lead straight to the next layer")
    collapses = keras.layers.Flatten | keras.layers.GlobalAveragePooling2D
    of_the_map = bool(rest) and isinstance(rest[-1].operation, collapses)
    if not of_the_map and not any(isinstance(layer, keras.layers.Dense) for layer in dense):
        raise _unrecognized(rest[-1] if rest else None, "is not a Dense layer that gives the outputs")
    return tuple(dense), rest


def _collapse(before: list[Call]) -> tuple[Collapse, KerasTensor]:
    """How the map becomes a vector, and the map; `before` are the calls up to the first Dense layer."""
    last = before[-1] if before else None
    if last is None or last.input is None:
        raise _unrecognized(last, "is not a layer that makes a vector of a feature map")
    if isinstance(last.operation, keras.layers.Flatten) and last.input.ndim == 4:
        pool = before[-2] if len(before) > 1 and before[-2].output is last.input else None
        if pool is not None and pool.input is not None and last.input.shape[1:3] == (1, 1):
            if isinstance(pool.operation, keras.layers.GlobalAveragePooling2D):
                return Collapse.global_average, pool.input
            if (
                isinstance(pool.operation, keras.layers.AveragePooling2D)
                and pool.operation.pool_size == pool.input.shape[1:3]
            ):
                return Collapse.average, pool.input
        return Collapse.flatten, last.input
    if isinstance(last.operation, keras.layers.GlobalAveragePooling2D) and not last.operation.keepdims:
        return Collapse.global_average, last.input
    raise _unrecognized(last, "is neither Flatten nor GlobalAveragePooling2D")


def _unrecognized(call: Call | None, what: str) -> NotRecognizedError:
    name = operation_text(call.operation) if call else "the input"
    return NotRecognizedError(
        f"The model's end could not be recognised: {name} {what}. It has to end in Flatten, AveragePooling2D over the "
        "whole map and Flatten, or GlobalAveragePooling2D, and after it, if anything, Dense layers with activations, "
        "dropout and batch normalization alone."
    )
