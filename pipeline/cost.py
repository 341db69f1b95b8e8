"""What a model costs: parameters, operations, time."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pipeline.evaluation import logits_function

if TYPE_CHECKING:
    import keras

TIMED_CALLS = 50


@dataclass(frozen=True)
class Cost:
    """The cost of a model at its training size.

    Attributes:
        parameters_total: Numbers in all weights, the moving averages of batch norm included.
        parameters_backbone: Those of the backbone.
        parameters_head: Those of the head.
        flops: Floating-point operations of one image's forward pass, a multiplication and an addition counting two.
        ms_per_image: Milliseconds of one image's forward pass, batch of one, median of 50 calls.
    """

    parameters_total: int
    parameters_backbone: int
    parameters_head: int
    flops: int
    ms_per_image: float


def measure_cost(model: keras.Model, image_shape: tuple[int, int, int]) -> Cost:
    """Measures a model that `build_model` made, for images of shape (H, W, C)."""
    return Cost(
        parameters_total=model.count_params(),
        parameters_backbone=model.get_layer("backbone").count_params(),
        parameters_head=model.get_layer("head").count_params(),
        flops=count_flops(model, image_shape),
        ms_per_image=_milliseconds_per_image(model, image_shape),
    )


def count_flops(model: keras.Model, image_shape: tuple[int, int, int]) -> int:
    """Floating-point operations of one image (H, W, C), as TensorFlow's profiler counts them in the graph."""
    import tensorflow as tf

    inference = tf.function(lambda images: model(images, training=False))
    graph = inference.get_concrete_function(tf.TensorSpec((1, *image_shape), tf.uint8)).graph
    options = tf.compat.v1.profiler.ProfileOptionBuilder(tf.compat.v1.profiler.ProfileOptionBuilder.float_operation())
    profile = tf.compat.v1.profiler.profile(graph, options=options.with_empty_output().build())
    return int(profile.total_float_ops)


def _milliseconds_per_image(model: keras.Model, image_shape: tuple[int, int, int]) -> float:
    logits_of = logits_function(model)
    image = np.zeros((1, *image_shape), np.uint8)
    logits_of(image)  # Traces.
    times = []
    for _ in range(TIMED_CALLS):
        start = time.perf_counter()
        logits_of(image).numpy()
        times.append(time.perf_counter() - start)
    return float(np.median(times) * 1e3)
