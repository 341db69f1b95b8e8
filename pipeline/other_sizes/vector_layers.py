"""What may stand between Dense layers and after them, and the same layers for maps and for vectors."""

from __future__ import annotations

import math

import keras
import numpy as np
from keras import layers

_ALIKE = (
    *(layers.Dropout, layers.AlphaDropout, layers.GaussianDropout, layers.GaussianNoise),
    *(layers.ReLU, layers.LeakyReLU, layers.ELU, layers.Identity, layers.ActivityRegularization),
)
"""Layers that do the same with each number of a vector."""
_EACH = (layers.PReLU, layers.BatchNormalization, layers.Normalization)
"""Layers that do to each number something of its own."""
_TOGETHER = (
    *(layers.Softmax, layers.LayerNormalization, layers.RMSNormalization, layers.UnitNormalization),
    layers.GroupNormalization,
)
"""Layers that look at all numbers of a vector."""
_TOGETHER_ACTIVATIONS = ("softmax", "log_softmax", "sparsemax", "glu")
_ALIKE_OPERATIONS = {
    *("Relu", "Relu6", "Sigmoid", "Tanh", "Softplus", "Softsign", "Silu", "LogSigmoid", "LeakyRelu", "HardSigmoid"),
    *("HardSilu", "HardTanh", "Elu", "Selu", "Gelu", "Celu", "Squareplus", "Abs", "Negative", "Square", "Sqrt", "Exp"),
}
"""Classes of `keras.ops` that do the same with each number; Keras does not export them."""


def is_known(operation: keras.Operation, rank: int) -> bool:
    """Whether it makes a vector of a vector of as many numbers, each vector of a batch on its own.

    Args:
        operation: A layer, or one of `keras.ops`.
        rank: 2 for vectors (N, F), 4 for maps of one cell (N, 1, 1, F).
    """
    known = (*_ALIKE, *_EACH, *_TOGETHER, layers.Activation, layers.Rescaling)
    if not (isinstance(operation, known) or type(operation).__name__ in _ALIKE_OPERATIONS):
        return False
    axis = getattr(operation, "axis", None)
    return axis is None or rank - 1 in {one % rank for one in np.atleast_1d(np.asarray(axis)).tolist()}


def is_alike(operation: keras.Operation) -> bool:
    """Whether it does the same with each number, so that it can come before numbers are put together."""
    if isinstance(operation, layers.Activation):
        return getattr(operation.activation, "__name__", "") not in _TOGETHER_ACTIVATIONS
    if isinstance(operation, layers.Rescaling):
        return np.ndim(operation.scale) == np.ndim(operation.offset) == 0
    return isinstance(operation, _ALIKE) or type(operation).__name__ in _ALIKE_OPERATIONS


def goes_on_maps(operation: keras.Operation) -> bool:
    """Whether there is the same layer for every cell of a map; group normalization would mix the cells."""
    return not isinstance(operation, layers.GroupNormalization)


def of_rank(operation: keras.Operation, rank: int, features: int) -> keras.Operation:
    """The same for tensors of another rank, whose last axis has the numbers of a vector.

    Args:
        operation: One that is known.
        rank: 2 for vectors (N, F), 4 for maps (N, H, W, F).
        features: Numbers in a vector, F.
    """
    if not isinstance(operation, keras.Layer):
        return operation
    config = operation.get_config()
    if config.get("axis") is not None:
        config["axis"] = -1
    if isinstance(operation, layers.PReLU):
        config["shared_axes"] = list(range(1, rank - 1)) or None
    twin = type(operation).from_config(config)
    twin.build((*[None] * (rank - 1), features))
    weights = zip(operation.get_weights(), twin.weights, strict=True)
    twin.set_weights([np.reshape(weight, new.shape) for weight, new in weights])
    if isinstance(twin, layers.Normalization) and twin.weights:
        twin.finalize_state()
    return twin


def dense_like(layer: keras.Layer, kernel: np.ndarray) -> layers.Dense:
    """The Dense layer with a kernel (F, K), and with the bias and the activation of a Dense layer or a convolution."""
    units, (_, *bias) = kernel.shape[-1], layer.get_weights()
    dense = layers.Dense(
        units,
        activation=layer.activation,
        use_bias=layer.use_bias,
        name=layer.name,
        trainable=layer.trainable,
        dtype=layer.dtype_policy,
    )
    dense.build((None, math.prod(kernel.shape[:-1])))
    dense.set_weights([kernel.reshape(-1, units), *bias])
    return dense
