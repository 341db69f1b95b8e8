"""Functions of models that are traced once for all models of a process that differ in nothing but their weights.

Tracing takes a tenth of a second and more, which the runs of a study would pay for each of their functions anew. So a
function is traced with variables of its own in the place of the model's, and is kept by the structure of the model.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from pipeline.common.bounded import Bounded
from pipeline.models.graph import is_graph

MOST_KEPT = 64
"""Functions that a process keeps at most; those that were traced first make room."""
LARGEST = 2**20
"""Numbers in the weights of a model whose functions are kept: 4 MB each, so that all of them take 256 MB at most."""

Function = Callable[..., tf.Tensor]


@dataclass(eq=False)
class Kept:
    """A traced function with variables of its own, and whose weights they hold now."""

    function: tf.types.experimental.ConcreteFunction
    variables: list[tf.Variable]
    holder: WithWeights | None = None


@dataclass(frozen=True, eq=False)
class WithWeights:
    """A kept function, computed with the weights of one model."""

    kept: Kept
    weights: list[np.ndarray]
    signature: tuple[tf.TensorSpec, ...]

    def __call__(self, *inputs: Any) -> tf.Tensor:
        if self.kept.holder is not self:
            for variable, weight in zip(self.kept.variables, self.weights, strict=True):
                variable.assign(weight)
            self.kept.holder = self
        pairs = zip(inputs, self.signature, strict=True)
        return self.kept.function(*(tf.convert_to_tensor(value, spec.dtype) for value, spec in pairs))


_all_kept: Bounded[Kept] = Bounded(MOST_KEPT)


def traced(model: keras.Model, function: Function, name: str, *signature: tf.TensorSpec) -> Function:
    """A function of a model and of tensors as one compiled function of the tensors.

    It is traced once for all models of the same structure. It computes with the weights that the model has now; ask
    again after these have changed.

    Args:
        model: Given to the function as its first argument.
        function: Nothing but its arguments decides what it computes.
        name: Which function that is.
        signature: Of the tensors.
    """
    structure = structure_of(model) if model.count_params() <= LARGEST else None
    if structure is None:
        return tf.function(lambda *inputs: function(model, *inputs), signature, autograph=False)
    kept = _all_kept.of((name, structure, signature), lambda: _traced_apart(model, function, signature))
    return WithWeights(kept, [variable.numpy() for variable in model.variables], signature)


def _traced_apart(model: keras.Model, function: Function, signature: tuple[tf.TensorSpec, ...]) -> Kept:
    """Traces a function of a model with other variables in the place of the model's."""
    variables = [tf.Variable(variable.numpy(), dtype=variable.dtype) for variable in model.variables]

    def with_variables(*inputs: tf.Tensor) -> tf.Tensor:
        values = [(own, variable.read_value()) for own, variable in zip(model.variables, variables, strict=True)]
        with keras.StatelessScope(state_mapping=values):
            return function(model, *inputs)

    return Kept(tf.function(with_variables, autograph=False).get_concrete_function(*signature), variables)


def structure_of(model: keras.Model) -> str | None:
    """All that decides what a model computes but its weights: equal for two models that differ in these alone.

    Returns:
        Text without the names of layers, which Keras counts on from model to model; None where a layer may hold more
        than its configuration and its weights say: one that is not Keras's own, or one that adapts to data.
    """
    if not _says_all(model):
        return None
    try:
        return json.dumps(_nameless(model.get_config()))
    except (KeyError, NotImplementedError, TypeError, ValueError):  # Not every argument can be written down.
        return None


def _says_all(operation: keras.Operation) -> bool:
    """Whether a layer, or a model with all of its layers, is told by its configuration and its weights."""
    if not type(operation).__module__.startswith("keras.") or hasattr(operation, "adapt"):
        return False
    if not isinstance(operation, keras.Model):
        return True
    return is_graph(operation) and all(map(_says_all, getattr(operation, "operations", None) or operation.layers))


def _nameless(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration of a graph of layers, each named by its place in it."""
    places = {layer["config"]["name"]: place for place, layer in enumerate(config["layers"])}

    def of_tensors(node: Any) -> Any:
        """Arguments of calls, in which tensors tell the layer that they come from."""
        if isinstance(node, Mapping):
            return {
                key: [places[value[0]], *value[1:]] if key == "keras_history" else of_tensors(value)
                for key, value in node.items()
            }
        return [of_tensors(each) for each in node] if isinstance(node, list | tuple) else node

    def of_ends(node: Any) -> Any:
        """Inputs and outputs: the layer, and which of its tensors."""
        if isinstance(node, Mapping):
            return {key: of_ends(value) for key, value in node.items()}
        if isinstance(node, list | tuple):
            return [of_ends(each) for each in node]
        return f"#{places[node]}" if isinstance(node, str) else node

    layers = []
    for layer in config["layers"]:
        inner = {key: value for key, value in layer["config"].items() if key != "name"}
        if "layers" in inner:
            inner = _nameless(layer["config"])
        layers.append({**layer, "name": None, "config": inner, "inbound_nodes": of_tensors(layer.get("inbound_nodes"))})
    ends = {key: of_ends(config[key]) for key in ("input_layers", "output_layers") if key in config}
    own = {key: value for key, value in config.items() if key != "name"}
    return {**own, "layers": layers, **ends}
