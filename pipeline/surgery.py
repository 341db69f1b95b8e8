"""Taking Keras models apart: every layer in a row, the part before a tensor, the same layers for images of any size.

All weights stay shared with the model that is taken apart.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import keras
    from keras import KerasTensor


@dataclass(frozen=True)
class Call:
    """One use of an operation in a model.

    Attributes:
        operation: A layer, or one of `keras.ops`.
        input: The tensor that it is used on; None if there are several.
        output: What it makes of it; None if that is several tensors.
    """

    operation: keras.Operation
    input: KerasTensor | None
    output: KerasTensor | None


def is_graph(model: Any) -> bool:
    """Whether a model is a graph of layers, functional or Sequential, and not code of its own."""
    import keras

    # Private, but what Keras's own clone_model is made of; there is no public way to go through a graph.
    return isinstance(model, keras.Sequential) or hasattr(model, "_run_through_graph")


def calls(model: keras.Model, inputs: KerasTensor) -> list[Call]:
    """Uses each layer of a model again, those of models inside it too, in order.

    Args:
        model: A graph of layers with one input and one output.
        inputs: What to use it on.

    Returns:
        The uses; the last one's output is the model's.
    """
    import keras

    found: list[Call] = []

    def run(graph: keras.Model, *args: Any, **kwargs: Any) -> Any:
        if isinstance(graph, keras.Sequential):
            x = args[0]
            for layer in graph.layers:
                x = use(layer)(x)
            return x
        return graph._run_through_graph(args[0] if len(args) == 1 else args, operation_fn=use)

    def use(operation: keras.Operation) -> Callable[..., Any]:
        if is_graph(operation):
            return lambda *args, **_: run(operation, *args)

        def called(*args: Any, **kwargs: Any) -> Any:
            output = operation(*args, **kwargs)
            tensors = [value for value in keras.tree.flatten([args, kwargs]) if isinstance(value, keras.KerasTensor)]
            found.append(
                Call(
                    operation,
                    tensors[0] if len(tensors) == 1 else None,
                    output if isinstance(output, keras.KerasTensor) else None,
                )
            )
            return output

        return called

    run(model, inputs)
    return found


def for_any_size(model: keras.Model) -> keras.Model:
    """The same layers from images (N, ?, ?, C), for a model from images (N, H, W, C)."""
    import keras

    inputs = keras.Input((None, None, model.input_shape[-1]), dtype=model.input.dtype, name="images")
    used = calls(model, inputs)
    return keras.Model(inputs, used[-1].output if used else inputs)
