"""What each cell of a feature map gives to a class's logit.

For a head whose logits are linear in the map, this is exact: logit = bias + Σ over cells of what each gives, which is
the product of the cell with the gradient. Of a mean and one Dense layer that is the class activation map of Zhou et
al., "Learning Deep Features for Discriminative Localization", 2015, section 2, divided by the number of cells; of
Flatten and one Dense layer, each cell has weights of its own. Whether a head is one of these, `Head.is_linear` says.
"""

from __future__ import annotations

import keras
import tensorflow as tf

from pipeline.models.traced import Function, traced


def class_activations(head: keras.Model) -> Function:
    """What each cell gives, as one compiled function of feature maps (N, H, W, F) and classes (N,), to (N, H, W).

    Args:
        head: From feature maps to logits (N, K), each of which is linear in the map.
    """
    maps = tf.TensorSpec(head.input_shape, head.inputs[0].dtype)
    return traced(head, _activations, "class activations", maps, tf.TensorSpec((None,), tf.int64))


def _activations(head: keras.Model, feature_maps: tf.Tensor, classes: tf.Tensor) -> tf.Tensor:
    logits = tf.gather(head(feature_maps, training=False), classes, axis=1, batch_dims=1)
    (gradient,) = tf.gradients(logits, feature_maps)
    return tf.reduce_sum(feature_maps * gradient, axis=-1)
