"""What is equal to a known end of a model is recognised as it, and answers the same; what is not is named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import KerasTensor, layers, ops

from pipeline.models.keras_file import load_model
from pipeline.models.runs import Runs, larger_sizes
from pipeline.other_sizes.convert import Conversion
from pipeline.other_sizes.parts import Collapse
from pipeline.other_sizes.take_apart import take_apart
from pipeline.other_sizes.ways import ways_for
from tests.models.stacks import stacked

FLATTEN = ["resize_input", "dense_to_conv", "dense_to_conv_mean_max", "resize_map", "interpolate_map"]
NO_CONVOLUTION = ["resize_input", "resize_map", "interpolate_map"]
GLOBAL = FLATTEN[:3]
WINDOW = [*GLOBAL, "global_pool"]


def _model(end: Callable[[KerasTensor], KerasTensor]) -> keras.Model:
    """Images of 8×10 px, a map of 4×5 cells with 3 channels, and an end; all weights are other numbers."""
    images = keras.Input((8, 10, 1))
    model = keras.Model(images, end(layers.Conv2D(3, 3, strides=2, padding="same", name="conv")(images)))
    generator = np.random.default_rng(0)
    model.set_weights([0.1 + 0.2 * generator.random(weight.shape, np.float32) for weight in model.get_weights()])
    return model


def _dense(*stack: keras.Layer) -> Callable[[KerasTensor], KerasTensor]:
    return stacked(*stack, layers.Dense(2))


EQUALS: dict[str, tuple[Callable[[KerasTensor], KerasTensor], Collapse, list[str]]] = {
    "Reshape": (_dense(layers.Reshape((-1,))), Collapse.flatten, FLATTEN),
    "Reshape by number": (_dense(layers.Reshape((4 * 5 * 3,))), Collapse.flatten, FLATTEN),
    "Reshape in two steps": (_dense(layers.Reshape((20, 3)), layers.Flatten()), Collapse.flatten, FLATTEN),
    "ops.reshape": (lambda x: layers.Dense(2)(ops.reshape(x, (-1, 60))), Collapse.flatten, FLATTEN),
    "Flatten of another order": (_dense(layers.Flatten(data_format="channels_first")), Collapse.flatten, FLATTEN),
    "Permute": (_dense(layers.Permute((3, 1, 2)), layers.Flatten(), layers.ReLU()), Collapse.flatten, FLATTEN),
    "ops.mean": (lambda x: layers.Dense(2)(ops.mean(x, axis=[1, 2])), Collapse.global_average, GLOBAL),
    "ops.max": (
        lambda x: layers.Dense(2)(ops.squeeze(ops.max(x, (-3, -2), keepdims=True), (1, 2))),
        Collapse.global_max,
        GLOBAL,
    ),
    "window of maxima": (_dense(layers.MaxPooling2D((4, 5)), layers.Flatten()), Collapse.max, WINDOW),
    "window larger than the map": (
        _dense(layers.AveragePooling2D(6, padding="same"), layers.Flatten()),
        Collapse.average,
        WINDOW,
    ),
    "two poolings": (
        _dense(layers.AveragePooling2D((4, 5)), layers.GlobalAveragePooling2D()),
        Collapse.average,
        WINDOW,
    ),
    "1×1 convolutions": (
        stacked(
            layers.GlobalAveragePooling2D(keepdims=True),
            *(layers.Conv2D(6, 1), layers.BatchNormalization(), layers.PReLU(), layers.Dropout(0.5)),
            *(layers.Conv2D(2, 1, use_bias=False), layers.Reshape((2,)), layers.Softmax()),
        ),
        Collapse.global_average,
        GLOBAL,
    ),
    "convolution of the whole map": (
        stacked(layers.Conv2D(6, (4, 5), activation="relu"), layers.Conv2D(2, 1), layers.Flatten()),
        Collapse.flatten,
        FLATTEN,
    ),
    "layers of vectors": (
        _dense(
            *(layers.GlobalAveragePooling2D(), layers.PReLU(), layers.Dense(6), layers.PReLU(), layers.ELU()),
            *(layers.LayerNormalization(), layers.RMSNormalization(), layers.UnitNormalization()),
            *(layers.Rescaling(2.0, 1.0), layers.GaussianNoise(0.1), layers.Identity(), layers.Softmax()),
        ),
        Collapse.global_average,
        GLOBAL,
    ),
    "all numbers of a flattened map together": (
        _dense(layers.Flatten(), layers.Activation("softmax")),
        Collapse.flatten,
        NO_CONVOLUTION,
    ),
    "normalization of groups": (
        _dense(layers.Flatten(), layers.Dense(6), layers.GroupNormalization(3)),
        Collapse.flatten,
        NO_CONVOLUTION,
    ),
    "map of one cell by strides": (
        _dense(layers.Conv2D(4, 3, strides=5, padding="same"), layers.Flatten()),
        Collapse.flatten,
        FLATTEN,
    ),
}


@pytest.mark.long
@pytest.mark.parametrize("name", EQUALS)
def test_equals_are_recognised_and_answer_the_same(name: str) -> None:
    end, collapse, names = EQUALS[name]
    model = _model(end)
    parts = take_apart(model, (8, 10))
    assert parts.collapse is collapse
    assert [way.name for way in ways_for(parts)] == names
    images = np.random.default_rng(1).random((3, 8, 10, 1), np.float32)
    expected = model(images, training=False).numpy()
    for way in ways_for(parts):
        converted = way.convert(model, parts, (8, 10))
        np.testing.assert_allclose(converted(images, training=False), expected, rtol=1e-4, atol=1e-6, err_msg=way.name)
        assert Runs(converted).failures(larger_sizes((8, 10))) == []


UNRECOGNISED: dict[str, tuple[Callable[[KerasTensor], KerasTensor], str]] = {
    "PReLU of each cell": (
        _dense(layers.PReLU(name="own"), layers.Flatten()),
        "before the Flatten is not fully convolutional: own (PReLU) is for one image size alone.",
    ),
    "normalization of the map": (
        _dense(layers.LayerNormalization(axis=[1, 2], name="own"), layers.GlobalAveragePooling2D()),
        "is not fully convolutional: own (LayerNormalization) is for one image size alone.",
    ),
    "positions": (
        lambda x: layers.Dense(2)(layers.Flatten()(ops.add(x, np.ones((1, 4, 5, 3), np.float32)))),
        "is not fully convolutional: ",
    ),
    "Dense on a transposed map": (
        _dense(layers.Permute((3, 2, 1)), layers.Dense(4), layers.Permute((3, 2, 1)), layers.Flatten()),
        "is not fully convolutional: ",
    ),
    "each number of another order": (
        _dense(layers.Flatten(data_format="channels_first", name="own"), layers.BatchNormalization()),
        "own (Flatten) flattens the map in another order than row by row",
    ),
}


@pytest.mark.long
@pytest.mark.parametrize("name", UNRECOGNISED)
def test_what_is_for_one_image_size_is_named_and_offers_nothing_that_fails(name: str, tmp_path: Path) -> None:
    end, message = UNRECOGNISED[name]
    conversion = Conversion(_model(end), "own.keras")
    assert message in conversion.findings[-1]
    assert list(conversion.ways) == ["resize_input"]
    said = list(conversion.write(conversion.way("resize_input"), tmp_path / "any.keras", 1e-5, None))
    assert said[-1] == "Takes images of 1×1 px and more."


def test_a_network_that_fails_at_some_sizes_is_named_with_the_size() -> None:
    """Its map of ⌈s/2⌉ cells has to have an even number: 12 = 1.5 · 8 and 16 = 2 · 8 px give 6 and 8, 17 px give 9."""
    images = keras.Input((8, 8, 1))
    x = layers.Conv2D(3, 3, strides=2, padding="same")(images)
    x = layers.Add(name="sum")([x, layers.UpSampling2D()(layers.MaxPooling2D()(x))])
    model = keras.Model(images, layers.Dense(2)(layers.GlobalAveragePooling2D()(x)))
    assert "sum (Add) fails on images of 17×17 px: " in Conversion(model, "own.keras").findings[-1]


def test_the_smallest_size_is_found_by_running() -> None:
    """Two unpadded convolutions of 3×3 with a pooling of 2×2 between them need ((1 + 2) · 2) + 2 = 8 px.

    Of 6 and 7 px TensorFlow computes numbers too, from a map without cells.
    """
    images = keras.Input((None, None, 1))
    x = layers.Conv2D(2, 3)(layers.MaxPooling2D()(layers.Conv2D(2, 3)(images)))
    runs = Runs(keras.Model(images, layers.GlobalAveragePooling2D()(x)))
    assert runs.smallest((20, 20)) == (8, 8)
    assert runs.smallest((20, 40)) == (8, 16)
    assert runs.at((8, 8)) is None


def test_a_size_between_those_that_were_tried_may_fail_and_is_found() -> None:
    """Halving and doubling ceil(n / 4) does not come back to it where it is odd: 33 px make 9 cells, 9 // 2 · 2 = 8."""
    images = keras.Input((None, None, 1))
    x = layers.Conv2D(3, 3, strides=4, padding="same")(images)
    x = layers.Add()([x, layers.UpSampling2D()(layers.MaxPooling2D()(x))])
    runs = Runs(keras.Model(images, layers.GlobalAveragePooling2D()(x)))
    assert runs.failures(larger_sizes((31, 31))) == []  # 46, 62 and 63 px: 12, 16 and 16 cells.
    assert runs.gap((31, 31)) == (33, 33)
    assert runs.smallest((31, 31)) == (31, 31)  # It takes 5 px, but not 9.


@pytest.mark.long
def test_a_model_called_with_arguments_is_converted(tmp_path: Path) -> None:
    """As Keras's guide to transfer learning has it."""
    inner = keras.Input((8, 8, 1))
    x = layers.BatchNormalization()(layers.Conv2D(3, 3, padding="same")(inner))
    base = keras.Model(inner, layers.Concatenate()([layers.Add()([x, x]), x]))
    images = keras.Input((8, 8, 1))
    x = layers.GlobalAveragePooling2D()(base(layers.Rescaling(1 / 255)(images), training=False))
    keras.Model(images, layers.Dense(2)(layers.Dropout(0.2)(x))).save(tmp_path / "own.keras")
    conversion = Conversion(load_model(tmp_path / "own.keras", "model"), "own.keras")
    assert list(conversion.ways) == GLOBAL
    for name, way in conversion.ways.items():
        said = list(conversion.write(way, tmp_path / f"{name}.keras", 1e-5, None))
        smallest = "1×1" if name == "resize_input" else "8×8"
        assert said[-1] == f"Takes images of {smallest} px and more."


@pytest.mark.slow
@pytest.mark.parametrize("network", ["MobileNet", "MobileNetV2", "MobileNetV3Small", "ResNet50"])
def test_networks_with_their_own_top_are_recognised(network: str) -> None:
    model = getattr(keras.applications, network)(weights=None, input_shape=(64, 64, 3), classes=5)
    conversion = Conversion(model, network)
    assert "GlobalAveragePooling2D" in conversion.findings[-1]
    assert list(conversion.ways) == GLOBAL
