"""The fused operations do what Keras's do, and are there where they should be."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from pipeline.heads.global_pools import GlobalAveragePool
from pipeline.models.backbones.small import SmallFcn
from pipeline.models.build import build_model
from pipeline.models.fused import fused_adam, fused_batch_norm
from pipeline.models.predict import compiled
from pipeline.models.traced import WithWeights

MAPS = np.random.default_rng(0).normal(3, 2, (4, 5, 6, 3)).astype(np.float32)


def _layer(shape: tuple[int, ...] = MAPS.shape, **settings: Any) -> keras.layers.BatchNormalization:
    """A layer whose weights are not those that it begins with."""
    layer = keras.layers.BatchNormalization(momentum=0.7, **settings)
    layer.build(shape)
    generator = np.random.default_rng(1)
    layer.set_weights([generator.uniform(0.5, 2, weight.shape) for weight in layer.weights])
    return layer


def _counted(monkeypatch: pytest.MonkeyPatch, name: str) -> list[str]:
    """A list to which each call of TensorFlow's raw operation of this name adds the name."""
    calls: list[str] = []
    operation: Callable[..., Any] = getattr(tf.raw_ops, name)

    def counting(**given: Any) -> Any:
        calls.append(name)
        return operation(**given)

    monkeypatch.setattr(tf.raw_ops, name, counting)
    return calls


def _step(layer: keras.layers.BatchNormalization, maps: np.ndarray, training: bool) -> list[np.ndarray]:
    """Outputs, gradients of the maps and of what is trained, and the weights after one call."""
    inputs = tf.constant(maps)
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        outputs = layer(inputs, training=training)
        total = tf.reduce_sum(tf.cast(outputs, tf.float32) ** 3)
    variables = [weight.value for weight in layer.trainable_weights]
    gradients = tape.gradient(total, [inputs, *variables])
    return [np.asarray(array, np.float32) for array in (outputs, *gradients, *layer.get_weights())]


@pytest.mark.parametrize("training", [True, False], ids=["training", "inference"])
@pytest.mark.parametrize(
    ("settings", "is_fused"),
    [
        ({}, True),
        ({"scale": False}, True),
        ({"center": False}, True),
        ({"trainable": False}, True),
        ({"axis": 3, "epsilon": 0.1}, True),
        ({"axis": 1}, False),
        ({"renorm": True}, False),
    ],
    ids=str,
)
def test_it_does_what_keras_does(
    settings: dict[str, Any], is_fused: bool, training: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    composed, fused = _layer(**settings), _layer(**settings)
    expected = _step(composed, MAPS, training)
    calls = _counted(monkeypatch, "FusedBatchNormV3")
    with fused_batch_norm():
        found = _step(fused, MAPS, training)
    assert len(calls) == is_fused
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)


def test_a_batch_of_vectors_and_another_precision_are_left_to_keras_or_cast() -> None:
    vectors = MAPS[:, 0, 0]
    with fused_batch_norm():
        found = _step(_layer(vectors.shape), vectors, True)
    np.testing.assert_array_equal(found[0], _step(_layer(vectors.shape), vectors, True)[0])
    short: dict[str, Any] = {"dtype": "mixed_bfloat16"}
    with fused_batch_norm():
        outputs = _layer(**short)(tf.cast(MAPS, tf.bfloat16), training=True)
    assert outputs.dtype == tf.bfloat16
    expected = _layer(**short)(tf.cast(MAPS, tf.bfloat16), training=True)
    # bfloat16 has 8 bits: neighbours differ by 2⁻⁸ of their size at most.
    np.testing.assert_allclose(np.asarray(outputs, np.float32), np.asarray(expected, np.float32), rtol=2**-7, atol=0.02)


def test_keras_has_its_own_again_after_an_error() -> None:
    before = keras.layers.BatchNormalization.call
    with pytest.raises(KeyError), fused_batch_norm():
        assert keras.layers.BatchNormalization.call is not before
        raise KeyError
    assert keras.layers.BatchNormalization.call is before


def test_inference_is_traced_with_it_and_a_recorded_model_is_not() -> None:
    model = build_model(SmallFcn(), GlobalAveragePool(), (28, 28, 1), 10, 0)
    logits_of = compiled(model)
    images = np.random.default_rng(0).integers(0, 256, (8, 28, 28, 1), np.uint8)
    np.testing.assert_allclose(logits_of(images), model(images, training=False), rtol=1e-4, atol=1e-5)
    assert isinstance(logits_of, WithWeights)
    operations = logits_of.kept.function.graph.get_operations()
    assert [operation.type for operation in operations].count("FusedBatchNormV3") == 4
    exported = tf.function(lambda pixels: model(pixels, training=False))
    plain = exported.get_concrete_function(tf.TensorSpec((1, 28, 28, 1), tf.uint8)).graph
    assert "FusedBatchNormV3" not in {operation.type for operation in plain.get_operations()}


def _trained(optimizer: keras.optimizers.Optimizer) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Weights of a model, and variables of its optimizer, after two steps."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4), keras.layers.Dense(2)])
    model.compile(optimizer=optimizer, loss="mse")
    optimizer.build(model.trainable_variables)
    inputs = np.random.default_rng(0).normal(size=(8, 3)).astype(np.float32)
    model.fit(inputs, inputs[:, :2], batch_size=4, epochs=1, shuffle=False, verbose=0)
    return model.get_weights(), [np.asarray(variable, np.float32) for variable in model.optimizer.variables]


@pytest.mark.long
@pytest.mark.parametrize(
    ("settings", "is_fused"),
    [
        ({}, True),
        ({"beta_1": 0.5, "beta_2": 0.9, "epsilon": 1e-3}, True),
        ({"learning_rate": keras.optimizers.schedules.CosineDecay(0.1, 4)}, True),
        ({"loss_scale_factor": 16.0}, True),
        ({"weight_decay": 0.1}, True),
        ({"global_clipnorm": 0.1}, True),
        ({"use_ema": True, "ema_momentum": 0.5}, True),
        ({"amsgrad": True}, False),
    ],
    # The schedule's text differs in each process.
    ids=["default", "moments", "schedule", "scaled loss", "decay", "clipped", "average", "amsgrad"],
)
def test_adam_steps_as_keras_does(settings: dict[str, Any], is_fused: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    optimizer = keras.optimizers.AdamW if "weight_decay" in settings else keras.optimizers.Adam
    expected = _trained(optimizer(**settings))
    calls = _counted(monkeypatch, "ResourceApplyAdam")
    with fused_adam():
        found = _trained(optimizer(**settings))
    assert len(calls) == 4 * is_fused  # Two Dense layers have a kernel and a bias each; a step is traced once.
    for ours, theirs in zip(found, expected, strict=True):
        for one, other in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


def test_adam_takes_its_first_step_by_the_formula() -> None:
    weight = keras.Variable([1.0, 2.0])
    optimizer = keras.optimizers.Adam(learning_rate=0.1)
    with fused_adam():
        optimizer.apply([tf.constant([3.0, -0.5])], [weight])
    # m̂ / (√v̂ + ε) is the gradient's sign: both moments are those of one gradient, so it cancels but for ε = 1e-7.
    np.testing.assert_allclose(weight, [0.9, 2.1], rtol=1e-6)
    np.testing.assert_allclose(optimizer._momentums[0], [0.3, -0.05], rtol=1e-6)  # (1 − .9) of the gradient
    np.testing.assert_allclose(optimizer._velocities[0], [0.009, 0.00025], rtol=1e-4)  # (1 − .999) of its square
