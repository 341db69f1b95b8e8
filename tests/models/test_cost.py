"""What a model costs, by hand."""

from __future__ import annotations

import numpy as np
import tensorflow as tf
from pytest import approx

from pipeline.heads.global_pools import GlobalAveragePool
from pipeline.models.backbones.small import SmallFcn
from pipeline.models.build import build_model
from pipeline.models.cost import measure_cost, peak_bytes


def test_peak_counts_what_is_alive_at_once() -> None:
    weights = tf.Variable(np.zeros((100, 10), np.float32))

    @tf.function(input_signature=[tf.TensorSpec((1, 100))])
    def two_steps(inputs: tf.Tensor) -> tf.Tensor:
        doubled = inputs + inputs  # 400 bytes.
        tripled = doubled + inputs  # 400 bytes more; doubled is then done with.
        return tf.matmul(tripled, weights)  # 40 bytes beside tripled's 400.

    # The result leaves through an Identity, 40 more, when tripled is gone. The peak is doubled and tripled.
    assert peak_bytes(two_steps.get_concrete_function().graph) == 400 + 400


def test_cost_of_a_small_model() -> None:
    model = build_model(SmallFcn(filters=[4], strides=[2]), GlobalAveragePool(), (8, 8, 1), 3, seed=0)
    cost = measure_cost(model, (8, 8, 1))
    assert cost.parameters_backbone == 3 * 3 * 1 * 4 + 4 * 4  # Batch norm: scale, offset, mean and variance.
    assert cost.parameters_head == 4 * 3 + 3
    assert cost.parameters_total == 52 + 15
    # A multiplication and an addition for each weight at each of 4×4 places, batch norm and ReLU 3 a number;
    # pooling 4·4·4; the Dense layer 2·4·3 + 3.
    assert cost.flops == approx(2 * 36 * 16 + 3 * 64 + 64 + 27, rel=0.1)
    # 4-byte weights; the image as float32 and its scaled copy, 8·8·4 bytes each, or as much for the 4×4×4 map and what
    # is made of it; beside them at most a few of batch norm's vectors of 16 bytes.
    assert 512 <= cost.memory_bytes - 4 * (52 + 15) <= 512 + 4 * 16
