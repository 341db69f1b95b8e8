"""Functions that are traced once for all models of one structure."""

from __future__ import annotations

from collections.abc import Callable

import keras
import numpy as np
import pytest
import tensorflow as tf

from pipeline.common.bounded import Bounded
from pipeline.models import traced
from pipeline.models.predict import compiled

IMAGES = np.random.default_rng(0).integers(0, 256, (2, 6, 5, 3)).astype(np.float32)


def _model(*layers: keras.Layer) -> keras.Model:
    images = keras.Input((None, None, 3))
    x = images
    for layer in layers or (keras.layers.Conv2D(4, 3, activation="relu"), keras.layers.GlobalAveragePooling2D()):
        x = layer(x)
    return keras.Model(images, x)


def test_models_of_one_structure_share_a_trace_and_keep_their_own_weights() -> None:
    traces = []

    def outputs(model: keras.Model, images: tf.Tensor) -> tf.Tensor:
        traces.append(model)
        return model(images, training=False)

    models = [_model(), _model()]  # Keras calls their layers by other names, and draws other weights.
    functions = [
        traced.traced(model, outputs, "of this test", tf.TensorSpec((None, None, None, 3))) for model in models
    ]
    assert len(traces) == 1
    for index in (0, 1, 0, 1):
        expected = models[index](IMAGES, training=False).numpy()
        np.testing.assert_allclose(functions[index](IMAGES).numpy(), expected, rtol=1e-5)


def test_a_function_computes_with_the_weights_at_the_time_it_was_asked_for() -> None:
    model = _model()
    before, expected = compiled(model), model(IMAGES, training=False).numpy()
    model.set_weights([2 * weight for weight in model.get_weights()])
    np.testing.assert_allclose(before(IMAGES).numpy(), expected, rtol=1e-5)
    np.testing.assert_allclose(compiled(model)(IMAGES).numpy(), model(IMAGES, training=False).numpy(), rtol=1e-5)
    np.testing.assert_allclose(compiled(model)(IMAGES).numpy(), 2 * expected, rtol=1e-5)  # The biases are 0.


def test_an_own_trace_and_a_shared_one_answer_bit_for_bit_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = _model(), _model()
    compiled(first)  # What traces.
    shared = compiled(second)(IMAGES).numpy()
    monkeypatch.setattr(traced, "LARGEST", 0)
    assert np.array_equal(compiled(second)(IMAGES).numpy(), shared)


CONV = keras.layers.Conv2D
OTHERS: list[Callable[[], keras.Model]] = [
    lambda: _model(CONV(4, 3, activation="relu")),
    lambda: _model(CONV(4, 3, activation="tanh")),
    lambda: _model(CONV(4, 3, activation="relu", name="relu")),  # A name that is also an activation.
    lambda: _model(CONV(4, 3, activation="tanh", name="tanh")),
    lambda: _model(CONV(4, 3, dtype="float16")),
    lambda: _twice(shares=True),
    lambda: _twice(shares=False),
    lambda: _crossed(first=0, other="relu"),
    lambda: _crossed(first=1, other="relu"),
    lambda: _constant(1.0),
    lambda: _constant(2.0),
]


def _twice(shares: bool) -> keras.Model:
    images, layer = keras.Input((None, None, 3)), CONV(3, 1)
    return keras.Model(images, (layer if shares else CONV(3, 1))(layer(images)))


def _crossed(first: int, other: str | None = None) -> keras.Model:
    """The difference of two layers' outputs, one way round or the other."""
    images = keras.Input((None, None, 3))
    outputs = [CONV(3, 1)(images), CONV(3, 1, activation=other)(images)]
    return keras.Model(images, keras.layers.Subtract()([outputs[first], outputs[1 - first]]))


def _constant(factor: float) -> keras.Model:
    images = keras.Input((None, None, 3))
    return keras.Model(images, keras.ops.multiply(images, np.array([factor, 1.0, 1.0], np.float32)))


@pytest.mark.long
def test_structures_tell_apart_all_but_weights_and_names() -> None:
    structures = [traced.structure_of(make()) for make in OTHERS]
    again = [traced.structure_of(make()) for make in OTHERS]
    assert None not in structures and structures == again
    assert structures[0] == structures[2]  # Of these, the name alone differs.
    assert structures[1] == structures[3]
    assert len(set(structures)) == len(OTHERS) - 2


def test_weights_stay_with_their_layers_however_these_are_crossed() -> None:
    models = [_crossed(first=0), _crossed(first=1)]
    functions = [compiled(model) for model in models]
    for model, function in zip(models, functions, strict=True):
        expected = model(IMAGES, training=False).numpy()
        np.testing.assert_allclose(function(IMAGES).numpy(), expected, rtol=1e-5, atol=1e-3)  # Of pixels up to 255.


def test_a_model_within_a_model_counts_with_its_layers() -> None:
    inner = [_model(CONV(3, 1, activation=activation)) for activation in ("relu", "tanh", "relu")]
    first, other, same = (traced.structure_of(_model(model, CONV(2, 1))) for model in inner)
    assert first == same != other


class _Doubled(keras.layers.Layer):
    factor = 2.0

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        return self.factor * inputs


def test_what_a_configuration_may_not_tell_is_not_shared() -> None:
    def normalised(mean: float) -> keras.Model:
        layer = keras.layers.Normalization()
        layer.adapt(np.array([[mean, mean, mean], [mean + 1, mean + 1, mean + 1]], np.float32))
        return _model(layer)

    for model in (normalised(0.0), normalised(5.0), _model(_Doubled()), _model(_model(_Doubled()))):
        assert traced.structure_of(model) is None
        np.testing.assert_allclose(compiled(model)(IMAGES).numpy(), model(IMAGES, training=False).numpy(), rtol=1e-5)


def test_no_more_are_kept_than_there_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(traced, "_all_kept", Bounded(2))
    for filters in (1, 2, 3):
        compiled(_model(CONV(filters, 1)))
    assert len(traced._all_kept) == 2
