"""Which pixels of an image some cells of its feature map can depend on.

By gradient of these cells at the image, taken so that it is zero where no path leads from a pixel to a cell, and
nowhere else. A gradient as it is would also vanish by accident: behind a ReLU that is off, beside the one cell that is
largest in its window, where signs cancel, where a weight is zero, and below what float32 holds. So

- all weights are positive and random, and of such a size that values stay as large as the pixels are;
- an activation hands on 1 or so for each gradient that is not zero, on or off, and so does each layer with weights:
  over tens of layers, a product of their gradients would vanish;
- a maximum hands on to all that it is of, as a mean or a sum would; so does a softmax, as in attention.

What is found is a property of the layers, the same before training and after it. It holds for strides that skip pixels,
for borders, which take from fewer pixels, and for layers that look at the whole map, such as squeeze-and-excitation.
"""

from __future__ import annotations

from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

from pipeline.common.size import Size
from pipeline.models.graph import float_twin

Reach = Callable[[np.ndarray, Size], np.ndarray]
"""Of cells of a map and the height and width of an image, the pixels that they can depend on; see `reach_of`."""
ANY = "ReachesAny"
ALONG = "ReachesAlong"
GRADIENTS = {
    **dict.fromkeys(("Relu", "Relu6", "LeakyRelu", "Elu", "Selu", "Softplus", "Sigmoid", "Tanh", "Erf"), ANY),
    **dict.fromkeys(("Exp", "Round", "Floor", "Ceil", "Identity"), ANY),
    **dict.fromkeys(("Softmax", "LogSoftmax"), ALONG),
    **dict.fromkeys(("Maximum", "Minimum"), "AddV2"),
    "MaxPool": "AvgPool",
    "Max": "Sum",
}
"""The gradient that each of TensorFlow's operations has here, by its registered name; all others have their own."""


@tf.RegisterGradient(ANY)
def _reaches_any(operation: tf.Operation, gradient: tf.Tensor) -> tf.Tensor:
    """About 1 wherever there is a gradient, so that none vanishes over many layers; not equal, lest they cancel."""
    return _about_one(gradient, gradient != 0)


@tf.RegisterGradient(ALONG)
def _reaches_along(operation: tf.Operation, gradient: tf.Tensor) -> tf.Tensor:
    """The same for what makes each of its numbers of all that stand in one row, however small their part in it."""
    return _about_one(gradient, tf.reduce_any(gradient != 0, axis=-1, keepdims=True))


def _about_one(gradient: tf.Tensor, where: tf.Tensor) -> tf.Tensor:
    about_one = tf.random.stateless_uniform(tf.shape(gradient), (0, 0), 0.5, 1.5, gradient.dtype)
    return tf.where(where, about_one, tf.zeros_like(gradient))


class _Afresh(keras.layers.Layer):
    """Hands on what it gets, by an operation whose gradient here is 1 or so wherever there is one."""

    def __init__(self) -> None:
        super().__init__(autocast=False)  # The type stays what it is, under any precision.

    def compute_output_spec(self, inputs: keras.KerasTensor) -> keras.KerasTensor:
        return keras.KerasTensor(inputs.shape, inputs.dtype)

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        return tf.identity(inputs)


def reach_of(extractor: keras.Model) -> Reach:
    """What tells, for cells of the feature map, the pixels that they can depend on.

    Args:
        extractor: From images (N, ?, ?, C) to feature maps (N, ?, ?, F). It gets other weights, and can only be asked
            for shapes from then on.

    Returns:
        A function of cells, bool (H, W), and of the image's height and width in pixels, that gives bool
        (height, width). It is traced once, here, and holds a few layers of one image at a time.
    """
    _set_positive_weights(extractor)
    traced = traced_reach(float_twin(extractor))

    def reach(cells: np.ndarray, size: Size) -> np.ndarray:
        return traced(tf.constant(cells, tf.float32), tf.constant(size)).numpy()

    return reach


def _set_positive_weights(extractor: keras.Model) -> None:
    generator = np.random.default_rng(0)
    for weight in extractor.weights:
        if "float" in weight.dtype:  # Not the state of a random generator.
            # Each output of a layer is then about a mean of its inputs; of vectors, each number is about 1.
            weight.assign(generator.uniform(0.5, 1.5, weight.shape) / max(1, np.prod(weight.shape[:-1])))


def traced_reach(twin: keras.Model) -> tf.types.experimental.PolymorphicFunction:
    """The gradient of an extractor of float32 images (N, ?, ?, C), or of one size, as one compiled function.

    Of cells, 1 or 0 in float32 (H, W), and of height and width in pixels, int32 (2,), to bool (height, width).
    """
    channels, afresh = twin.input_shape[-1], _Afresh()
    twin = keras.models.clone_model(
        twin,
        clone_function=lambda operation: operation,
        call_function=lambda operation, *args, **kwargs: (
            keras.tree.map_structure(afresh, operation(*args, **kwargs))
            if getattr(operation, "weights", [])
            else operation(*args, **kwargs)
        ),
    )

    @tf.function(input_signature=[tf.TensorSpec((None, None)), tf.TensorSpec(2, tf.int32)])
    def reach(cells: tf.Tensor, size: tf.Tensor) -> tf.Tensor:
        # On a CPU: what convolves by transforms, as GPUs do, leaves no exact zeros.
        with tf.device("CPU"), tf.compat.v1.get_default_graph().gradient_override_map(GRADIENTS):
            shape = tf.concat([[1], size, [channels]], axis=0)
            images = tf.ensure_shape(tf.random.stateless_uniform(shape, (0, 0), 1, 255), (1, *twin.input_shape[1:]))
            feature_map = twin(images, training=False)
            of_cells = tf.cast(cells[None, :, :, None], feature_map.dtype) * tf.ones_like(feature_map)
            (gradient,) = tf.gradients(feature_map, images, of_cells, unconnected_gradients="zero")
            return tf.reduce_any(gradient != 0, axis=(0, 3))

    return reach
