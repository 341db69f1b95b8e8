"""Ways to run a trained model at image sizes that it was not built for.

Each gives the same answers as the model itself at its own size. At other sizes they are different models, and which one
is accurate there is a question for measurement. They are made of Keras's own layers and operations: a converted model
loads wherever Keras does, in safe mode.
"""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from pipeline.adaptive_pooling import adaptive_average_pool
from pipeline.errors import UserError
from pipeline.heads import Size, size_text
from pipeline.surgery import LayerRefusesError, calls, for_any_size, is_graph, operation_text

if TYPE_CHECKING:
    import keras
    from keras import KerasTensor

    from pipeline.surgery import Call


class Collapse(Enum):
    """How a model turns its feature map into a vector."""

    flatten = "Flatten"
    """Every cell on its own; pooling over part of the map before it counts as part of the extractor."""
    average = "AveragePooling2D over the whole map"
    global_average = "GlobalAveragePooling2D"


class NotRecognizedError(UserError):
    """The model is not an extractor, a known collapse, and Dense layers."""


@dataclass(frozen=True)
class Parts:
    """A trained model, taken apart.

    Attributes:
        extractor: From images (N, ?, ?, C) to feature maps (N, ?, ?, F).
        collapse: How the map becomes a vector.
        dense: What turns the vector into the model's outputs: Dense, Dropout, activation and batch-norm layers.
        map_size: Height and width of the feature map at the size of training.
        image_size: That size, in pixels.
    """

    extractor: keras.Model
    collapse: Collapse
    dense: tuple[keras.Layer, ...]
    map_size: Size
    image_size: Size


def take_apart(model: keras.Model, image_size: Size) -> Parts:
    """Finds extractor, collapse and Dense layers of a trained model. Its weights are shared, not copied.

    Args:
        model: A functional or Sequential model from images (N, H, W, C) or (N, ?, ?, C) to outputs (N, K), other models
            inside it or not.
        image_size: Height and width in pixels that it was trained on.

    Raises:
        NotRecognizedError: Says what could not be recognised.
    """
    import keras

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
    return Parts(extractor, collapse, dense, (feature_map.shape[1], feature_map.shape[2]), image_size)


def _dense_layers(used: Sequence[Call]) -> tuple[tuple[keras.Layer, ...], list[Call]]:
    """The layers on vectors at the end of a model, and the calls before them."""
    import keras

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
    if not any(isinstance(layer, keras.layers.Dense) for layer in dense):
        raise _unrecognized(rest[-1] if rest else None, "is not a Dense layer that gives the outputs")
    return tuple(dense), rest


def _collapse(before: list[Call]) -> tuple[Collapse, KerasTensor]:
    """How the map becomes a vector, and the map; `before` are the calls up to the first Dense layer."""
    import keras

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
        "whole map and Flatten, or GlobalAveragePooling2D, and after it Dense layers with activations, dropout and "
        "batch normalization alone."
    )


class Way(ABC):
    """One way to run a trained model at other sizes.

    Attributes:
        name: In configurations, metrics and file names.
        rule: What it does, in a sentence.
        source: Where it comes from.
        collapses: The collapses that it is for.
    """

    name: ClassVar[str]
    rule: ClassVar[str]
    source: ClassVar[str]
    collapses: ClassVar[tuple[Collapse, ...]]

    @abstractmethod
    def outputs(self, feature_map: KerasTensor, parts: Parts) -> KerasTensor:
        """The model's outputs (N, K) for a feature map (N, ?, ?, F) of any size."""

    def is_for(self, parts: Parts) -> bool:
        """Whether a model can be run in this way."""
        return parts.collapse in self.collapses

    def refusal(self, native: Size, size: Size) -> str | None:
        """Why a map of `size` cannot be taken by a model whose own maps have size `native`; None if it can."""
        return None

    def convert(self, parts: Parts) -> keras.Model:
        """The whole model for images of any size, from (N, ?, ?, C) to (N, K). It shares the weights of `parts`."""
        import keras

        images = keras.Input((None, None, parts.extractor.input_shape[-1]), dtype=parts.extractor.input.dtype)
        return keras.Model(images, self.outputs(parts.extractor(images), parts))


class GlobalPool(Way):
    name = "global_pool"
    rule = "the window of AveragePooling2D grows with the map, which makes it GlobalAveragePooling2D"
    source = "Lin, Chen, Yan, Network In Network, 2013, section 3.2"
    collapses = (Collapse.average,)

    def outputs(self, feature_map: KerasTensor, parts: Parts) -> KerasTensor:
        import keras

        return _apply(parts.dense, keras.layers.GlobalAveragePooling2D()(feature_map))


class ResizeMap(Way):
    name = "resize_map"
    rule = "the feature map is averaged in bins to the size that it had in training, then flattened"
    source = "He, Zhang, Ren, Sun, Spatial Pyramid Pooling, 2014, section 3.1, with one level and averages"
    collapses = (Collapse.flatten,)

    def outputs(self, feature_map: KerasTensor, parts: Parts) -> KerasTensor:
        import keras

        return _apply(parts.dense, keras.layers.Flatten()(self.resize(feature_map, parts.map_size)))

    def resize(self, feature_map: KerasTensor, size: Size) -> KerasTensor:
        """The map (N, ?, ?, F) brought to (N, *size, F)."""
        return adaptive_average_pool(feature_map, size)


class InterpolateMap(ResizeMap):
    name = "interpolate_map"
    rule = "the feature map is interpolated (bilinear, antialiased) to the size that it had in training, then flattened"
    source = "as images are resized; compare the position embeddings of Dosovitskiy et al., 2020, section 3.2"

    def resize(self, feature_map: KerasTensor, size: Size) -> KerasTensor:
        from keras import ops

        return ops.image.resize(feature_map, size, "bilinear", antialias=True)


class DenseToConv(Way):
    name = "dense_to_conv"
    rule = "the Dense layers become convolutions that answer at every position; their answers are averaged"
    source = (
        "Sermanet et al., OverFeat, 2013, section 3.5; Long, Shelhamer, Darrell, Fully Convolutional Networks, 2014"
    )
    collapses = (Collapse.flatten, Collapse.average, Collapse.global_average)

    def is_for(self, parts: Parts) -> bool:
        import keras

        # Of a flattened map they treat all cells together, and no convolution does.
        together = keras.layers.BatchNormalization | keras.layers.Softmax
        bound = any(isinstance(layer, together) for layer in before_dense(parts))
        return super().is_for(parts) and not (bound and parts.collapse is Collapse.flatten)

    def refusal(self, native: Size, size: Size) -> str | None:
        if size[0] >= native[0] and size[1] >= native[1]:
            return None
        return f"the {size_text(native)} window of the trained weights does not fit into the {size_text(size)} map"

    def outputs(self, feature_map: KerasTensor, parts: Parts) -> KerasTensor:
        import keras

        x = _at_least(feature_map, parts.map_size)
        if parts.collapse is not Collapse.flatten:
            x = keras.layers.AveragePooling2D(parts.map_size, strides=1)(x)
        windows = parts.map_size if parts.collapse is Collapse.flatten else (1, 1)
        body, last, ending = _split_at_last(parts.dense)
        for layer in body:
            if isinstance(layer, keras.layers.Dense):
                x, windows = _as_convolution(layer, x, windows, layer.activation), (1, 1)
            else:
                x = _copy_for_maps(layer)(x)
        x = self.reduce(_as_convolution(last, x, windows, None))
        return _apply(ending, keras.layers.Activation(last.activation)(x))

    def reduce(self, answers: KerasTensor) -> KerasTensor:
        """One answer (N, K) of the answers at all positions (N, ?, ?, K)."""
        import keras

        return keras.layers.GlobalAveragePooling2D()(answers)


class DenseToConvMeanMax(DenseToConv):
    name = "dense_to_conv_mean_max"
    rule = "as dense_to_conv, but the mean of the average and the largest of the answers of each class"
    source = "timm, layers/test_time_pool.py, the default of TestTimePoolHead"

    def reduce(self, answers: KerasTensor) -> KerasTensor:
        import keras

        return (super().reduce(answers) + keras.layers.GlobalMaxPooling2D()(answers)) / 2


RESIZE_INPUT = "resize_input"
"""The way for every model: images are resized to the size of training, and the model is left as it is."""
WAYS: tuple[Way, ...] = (GlobalPool(), ResizeMap(), InterpolateMap(), DenseToConv(), DenseToConvMeanMax())
WAY_RULES: dict[str, str] = {
    RESIZE_INPUT: "images are resized (bilinear, antialiased) to the size of training; the model stays as it is",
    **{way.name: way.rule for way in WAYS},
}
"""The names of all ways, and what each does."""


def before_dense(parts: Parts) -> list[keras.Layer]:
    """The layers between the collapse and the first Dense layer."""
    import keras

    return list(itertools.takewhile(lambda layer: not isinstance(layer, keras.layers.Dense), parts.dense))


def ways_for(parts: Parts) -> list[Way]:
    """The ways to convert a model; `resize_input` is always one more."""
    return [way for way in WAYS if way.is_for(parts)]


def resize_input(model: keras.Model, image_size: Size) -> keras.Model:
    """A model from images (N, ?, ?, C) that resizes them to `image_size` px before it asks `model`."""
    import keras
    from keras import ops

    images = keras.Input((None, None, model.input_shape[-1]), dtype=model.inputs[0].dtype)
    # Not keras.layers.Resizing: called eagerly, that makes a model behind it run, and learn, as in training.
    resized = ops.image.resize(ops.cast(images, "float32"), image_size, "bilinear", antialias=True)
    if "int" in model.inputs[0].dtype:
        resized = ops.cast(ops.clip(ops.round(resized), 0, 255), model.inputs[0].dtype)
    return keras.Model(images, model(resized))


def _at_least(feature_map: KerasTensor, size: Size) -> KerasTensor:
    """The map as it is. Where it has fewer cells than `size`, an error: TensorFlow itself gives zero or NaN there."""
    from keras import ops

    x = feature_map
    for axis, cells in ((1, size[0]), (2, size[1])):
        before, after = (x[:, : cells - 1], x[:, cells:]) if axis == 1 else (x[:, :, : cells - 1], x[:, :, cells:])
        needed = x[:, cells - 1] if axis == 1 else x[:, :, cells - 1]
        x = ops.concatenate([before, ops.expand_dims(needed, axis), after], axis=axis)
    return x


def _apply(layers: Sequence[keras.Layer], x: KerasTensor) -> KerasTensor:
    for layer in layers:
        x = layer(x)
    return x


def _split_at_last(
    layers: Sequence[keras.Layer],
) -> tuple[Sequence[keras.Layer], keras.layers.Dense, Sequence[keras.Layer]]:
    """The layers before the last Dense layer, that one, and what follows it."""
    import keras

    last = max(index for index, layer in enumerate(layers) if isinstance(layer, keras.layers.Dense))
    return layers[:last], layers[last], layers[last + 1 :]


def _as_convolution(
    dense: keras.layers.Dense, x: KerasTensor, window: Size, activation: Callable[..., KerasTensor] | None
) -> KerasTensor:
    """The Dense layer at every position of a map, over a window of so many cells; flattening is row by row."""
    import keras

    kernel, *bias = dense.get_weights()
    convolution = keras.layers.Conv2D(
        dense.units, window, activation=activation, use_bias=dense.use_bias, dtype=dense.dtype_policy
    )
    answers = convolution(x)
    convolution.set_weights([np.reshape(kernel, (*window, -1, dense.units)), *bias])
    return answers


def _copy_for_maps(layer: keras.Layer) -> Callable[[KerasTensor], KerasTensor]:
    """A layer on vectors as one on maps, which treats every position like a vector."""
    config = layer.get_config()
    if "axis" in config:
        config["axis"] = -1  # Of vectors (N, F), 1 is the same.
    copy = type(layer).from_config(config)

    def on_maps(x: KerasTensor) -> KerasTensor:
        result = copy(x)
        copy.set_weights(layer.get_weights())
        return result

    return on_maps
