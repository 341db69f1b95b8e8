"""Logits of a model on batches of images."""

from __future__ import annotations

import keras
import numpy as np
import tensorflow as tf

from pipeline.models.fused import fused_batch_norm
from pipeline.models.traced import Function, traced


def compiled(model: keras.Model) -> Function:
    """The model's inference as one compiled function of images or feature maps (N, H, W, C), with fused batch norm.

    Traced once, for all batch sizes and, where the model takes any, for all sizes; and for all models of a process that
    differ in their weights alone.
    """
    return traced(model, _outputs, "inference", tf.TensorSpec(model.input_shape, model.inputs[0].dtype))


def _outputs(model: keras.Model, inputs: tf.Tensor) -> tf.Tensor:
    with fused_batch_norm():
        return model(inputs, training=False)


def predict(
    model: keras.Model, batches: tf.data.Dataset, order: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Logits float32 (N, K) and labels int64 (N,) of all batches, in their order or sorted by `order`, (N,)."""
    logits_of = compiled(model)
    pairs = [(logits_of(images).numpy(), labels) for images, labels in batches.as_numpy_iterator()]
    logits, labels = (np.concatenate(parts) for parts in zip(*pairs, strict=True))
    return (logits, labels) if order is None else (logits[np.argsort(order)], labels[np.argsort(order)])
