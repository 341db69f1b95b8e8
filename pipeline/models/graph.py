"""Taking Keras models apart: every layer in a row, the part before a tensor, the same layers for images of any size.

All weights stay shared with the model that is taken apart.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np
from keras import KerasTensor


class LayerRefusesError(ValueError):
    """A layer cannot take what comes to it.

    Args:
        operation: The layer.
    """

    def __init__(self, operation: keras.Operation) -> None:
        super().__init__(f"{operation_text(operation)} cannot take what comes to it")
        self.operation = operation


@dataclass(frozen=True)
class Call:
    """One use of an operation in a model.

    Attributes:
        operation: A layer, or one of `keras.ops`.
        inputs: The tensors that it is used on.
        outputs: The tensors that it makes of them.
        args: What it is called with, tensors and else.
        kwargs: Likewise, by name.
    """

    operation: keras.Operation
    inputs: tuple[KerasTensor, ...]
    outputs: tuple[KerasTensor, ...]
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)

    @property
    def input(self) -> KerasTensor | None:
        """The tensor that it is used on; None if there are several."""
        return self.inputs[0] if len(self.inputs) == 1 else None

    @property
    def output(self) -> KerasTensor | None:
        """What it makes of it; None if that is several tensors."""
        return self.outputs[0] if len(self.outputs) == 1 else None


def operation_text(operation: keras.Operation) -> str:
    """`conv2d_1 (Conv2D)`."""
    return f"{operation.name} ({type(operation).__name__})"


def is_graph(model: Any) -> bool:
    """Whether a model is a graph of layers, functional or Sequential, and not code of its own."""
    return isinstance(model, keras.Function | keras.Sequential)


def leaves(model: keras.Model) -> list[keras.Layer]:
    """The layers of a model, and in their places those of the models within it."""
    return [inner for layer in model.layers for inner in (leaves(layer) if isinstance(layer, keras.Model) else [layer])]


def again(model: keras.Model, inputs: KerasTensor) -> tuple[keras.Model, list[Call]]:
    """Uses each layer of a model again, those of models inside it too, in order.

    Args:
        model: A graph of layers with one input.
        inputs: What to use it on.

    Returns:
        The same function of `inputs` as one graph without models inside it, and the uses of its layers.

    Raises:
        LayerRefusesError: A layer cannot take what a layer before it makes of `inputs`.
    """
    _make_names_unique(model, set())
    graph = keras.Model(model.inputs[0], model.outputs if len(model.outputs) > 1 else model.outputs[0])
    # At the model's own sizes, which the models inside it may insist on.
    while any(is_graph(operation) for operation in graph.operations):
        graph, _ = _replay(graph, keras.Input(graph.input.shape[1:], dtype=graph.input.dtype))
    same, found = _replay(graph, inputs)
    _keep_in_inference(found)
    return same, found


def calls(model: keras.Model, inputs: KerasTensor) -> list[Call]:
    """The uses of a model's layers on `inputs`, see `again`; the last one's output is the model's."""
    return again(model, inputs)[1]


def failing_call(model: keras.Model, images: np.ndarray) -> tuple[Call, Exception | None] | None:
    """The first use of a layer that fails on images (N, H, W, C), with its error; None if none does.

    Without an error it makes of them what are no finite numbers.

    Args:
        model: From images (N, ?, ?, C).
        images: What to run it on, layer by layer.
    """
    inputs = keras.Input(model.input.shape[1:], dtype=model.input.dtype)
    values = {id(inputs): keras.ops.convert_to_tensor(images, dtype=model.input.dtype)}
    for call in calls(model, inputs):
        args, kwargs = keras.tree.map_structure(lambda value: values.get(id(value), value), (call.args, call.kwargs))
        try:
            outputs = call.operation(*args, **kwargs)
        except Exception as error:  # Each layer has its own way of failing.
            return call, error
        for symbol, value in zip(call.outputs, keras.tree.flatten(outputs), strict=True):
            if not np.isfinite(keras.ops.convert_to_numpy(value)).all():
                return call, None
            values[id(symbol)] = value
    return None


def pools_whole_map(call: Call) -> bool:
    """Whether a use of a layer makes one cell of all cells of its map, by their average or largest, at this size."""
    operation, before = call.operation, call.input
    if before is None or before.ndim != 4 or None in before.shape[1:3]:
        return False
    if isinstance(operation, keras.layers.GlobalAveragePooling2D | keras.layers.GlobalMaxPooling2D):
        return operation.data_format == "channels_last"
    if isinstance(operation, keras.layers.AveragePooling2D | keras.layers.MaxPooling2D):
        covers = all(window >= side for window, side in zip(operation.pool_size, before.shape[1:3], strict=True))
        return covers and operation.data_format == "channels_last" and call.outputs[0].shape[1:3] == (1, 1)
    axes = getattr(operation, "axis", None)
    if type(operation).__name__ in ("Mean", "Max") and isinstance(axes, int | list | tuple):
        return {axis % 4 for axis in np.atleast_1d(axes).tolist()} == {1, 2}
    return False


def for_any_size(model: keras.Model) -> keras.Model:
    """The same layers from images (N, ?, ?, C), for a model from images (N, H, W, C)."""
    return again(model, keras.Input((None, None, model.input_shape[-1]), dtype=model.inputs[0].dtype))[0]


def float_twin(model: keras.Model) -> keras.Model:
    """The same layers from float32 images (N, ?, ?, C), which have a gradient, whatever numbers `model` takes.

    Args:
        model: From images (N, ?, ?, C). Models inside it that want integers get floats too, and nothing is cast to any.
    """
    graph, _ = again(model, keras.Input(model.input.shape[1:], dtype=model.input.dtype))
    return keras.models.clone_model(
        graph,
        input_tensors=keras.Input(model.input.shape[1:], dtype="float32"),
        clone_function=lambda operation: operation,
        call_function=lambda operation, *args, **kwargs: (
            args[0] if _is_conversion(operation) or _makes_integers(operation) else operation(*args, **kwargs)
        ),
    )


def linear_twin(model: keras.Model) -> keras.Model:
    """The same weights without activations, and where these were in float32: nothing is off, and nothing saturates.

    Args:
        model: A graph of layers without models inside it.
    """

    def without_activation(operation: keras.Operation) -> keras.Operation:
        if isinstance(operation, keras.layers.Activation | keras.layers.ReLU):
            return keras.layers.Identity()
        if getattr(operation, "activation", None) in (None, keras.activations.linear):
            return operation
        config = {**operation.get_config(), "activation": "linear", "dtype": "float32"}
        twin = type(operation).from_config(config)
        twin.build_from_config(operation.get_build_config())
        twin.set_weights(operation.get_weights())
        return twin

    return keras.models.clone_model(model, clone_function=without_activation)


def _is_conversion(operation: keras.Operation) -> bool:
    """Whether Keras put the operation before a model inside a model, to give it the type of its input."""
    return type(operation).__name__ == "ConvertToTensor"


def _makes_integers(operation: keras.Operation) -> bool:
    return type(operation).__name__ == "Cast" and "int" in operation.dtype


def _replay(graph: keras.Model, inputs: KerasTensor) -> tuple[keras.Model, list[Call]]:
    """Uses each layer of a graph again; a model among them gives way to its layers, which may be models again."""
    found: list[Call] = []

    def use(operation: keras.Operation, *args: Any, **kwargs: Any) -> Any:
        # Keras hands arguments such as `training` of a model's call on to operations that do not take them, too.
        accepted = inspect.signature(operation.call).parameters
        if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in accepted.values()):
            kwargs = {name: value for name, value in kwargs.items() if name in accepted}
        try:
            outputs = (operation.call if is_graph(operation) else operation)(*args, **kwargs)
        except Exception as error:  # Each layer has its own way of refusing a shape.
            raise LayerRefusesError(operation) from error
        # Keras converts even to the type that it has.
        if _is_conversion(operation) and outputs.dtype == args[0].dtype:
            return args[0]
        tensors = [value for value in keras.tree.flatten([args, kwargs]) if isinstance(value, keras.KerasTensor)]
        found.append(Call(operation, tuple(tensors), tuple(keras.tree.flatten(outputs)), args, kwargs))
        return outputs

    same = keras.models.clone_model(
        graph, input_tensors=inputs, clone_function=lambda operation: operation, call_function=use
    )
    return same, found


def _keep_in_inference(found: Sequence[Call]) -> None:
    """Lets `training=False` of a call hold in a training of the whole model, where Keras puts the outer value over it.

    Of layers that are always called so. A copy of the layer, and one from a file, does as Keras does.
    """
    for call in found:
        layer, uses = call.operation, [other for other in found if other.operation is call.operation]
        if isinstance(layer, keras.Layer) and all(other.kwargs.get("training") is False for other in uses):
            layer._call_context_args = layer._call_context_args - {"training"}


def _make_names_unique(model: Any, taken: set[str]) -> None:
    """Keras wants each name once in a graph, but models inside a model may use the same ones."""
    for operation in getattr(model, "operations", None) or model.layers:
        if is_graph(operation):
            _make_names_unique(operation, taken)
        while operation.name in taken:
            operation.name = f"{model.name}_{operation.name}"
        taken.add(operation.name)
