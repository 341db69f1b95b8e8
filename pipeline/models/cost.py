"""What a model costs: parameters, operations, memory, time."""

from __future__ import annotations

import time
from dataclasses import dataclass

import keras
import numpy as np
import tensorflow as tf

from pipeline.models.predict import compiled

TIMED_CALLS = 50
NOT_COMPUTED = ("Const", "Placeholder", "ReadVariableOp", "NoOp")
"""Operations of a graph whose results are there before it runs."""


@dataclass(frozen=True)
class Cost:
    """The cost of a model at its training size.

    Attributes:
        parameters_total: Numbers in all weights, the moving averages of batch norm included.
        parameters_backbone: Those of the backbone.
        parameters_head: Those of the head.
        flops: Floating-point operations of one image's forward pass, a multiplication and an addition counting two.
        memory_bytes: Of the weights, and of the most tensors that one image's forward pass holds at once.
        ms_per_image: Milliseconds of one image's forward pass, batch of one, median of 50 calls.
    """

    parameters_total: int
    parameters_backbone: int
    parameters_head: int
    flops: int
    memory_bytes: int
    ms_per_image: float


def measure_cost(model: keras.Model, image_shape: tuple[int, int, int]) -> Cost:
    """Measures a model that `build_model` made, for images of shape (H, W, C)."""
    graph = _inference_graph(model, image_shape)
    weights = sum(weight.nbytes for weight in model.get_weights())
    return Cost(
        parameters_total=model.count_params(),
        parameters_backbone=model.get_layer("backbone").count_params(),
        parameters_head=model.get_layer("head").count_params(),
        flops=count_flops(graph),
        memory_bytes=weights + peak_bytes(graph),
        ms_per_image=_milliseconds_per_image(model, image_shape),
    )


def count_flops(graph: tf.Graph) -> int:
    """Floating-point operations of a graph, as TensorFlow's profiler counts them."""
    options = tf.compat.v1.profiler.ProfileOptionBuilder(tf.compat.v1.profiler.ProfileOptionBuilder.float_operation())
    profile = tf.compat.v1.profiler.profile(graph, options=options.with_empty_output().build())
    return int(profile.total_float_ops)


def peak_bytes(graph: tf.Graph) -> int:
    """The most bytes of computed tensors that are alive at once, each from its operation to its last use.

    Operations run in the graph's order, none in place; constants and weights are not counted.
    """
    operations = [operation for operation in graph.get_operations() if operation.type not in NOT_COMPUTED]
    last_use = {tensor.ref(): operation for operation in operations for tensor in operation.inputs}
    alive = peak = 0
    for operation in operations:
        alive += sum(_bytes(tensor) for tensor in operation.outputs)
        peak = max(peak, alive)
        done = {tensor.ref() for tensor in operation.inputs if last_use[tensor.ref()] is operation}
        alive -= sum(_bytes(reference.deref()) for reference in done if reference.deref().op.type not in NOT_COMPUTED)
    return peak


def _bytes(tensor: tf.Tensor) -> int:
    return (tensor.shape.num_elements() or 0) * tensor.dtype.size


def _inference_graph(model: keras.Model, image_shape: tuple[int, int, int]) -> tf.Graph:
    inference = tf.function(lambda images: model(images, training=False))
    return inference.get_concrete_function(tf.TensorSpec((1, *image_shape), tf.uint8)).graph


def _milliseconds_per_image(model: keras.Model, image_shape: tuple[int, int, int]) -> float:
    logits_of = compiled(model)
    image = np.zeros((1, *image_shape), np.uint8)
    logits_of(image)  # Traces.
    times = []
    for _ in range(TIMED_CALLS):
        start = time.perf_counter()
        logits_of(image).numpy()
        times.append(time.perf_counter() - start)
    return float(np.median(times) * 1e3)
