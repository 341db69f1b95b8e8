"""Which pixels cells of the map depend on: by arithmetic, by trying each pixel, and where a gradient would mislead."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import KerasTensor, layers

from pipeline.common.size import Size
from pipeline.models.backbones.base import Backbone
from pipeline.models.backbones.pretrained import FromModel
from pipeline.models.backbones.small import ResNet, SmallFcn
from pipeline.models.cost import peak_bytes
from pipeline.models.graph import float_twin
from pipeline.models.reach import reach_of, traced_reach
from pipeline.other_sizes.take_apart import take_apart
from pipeline.training.settings import Precision
from tests.models.stacks import stacked


def _corner(size: Size, side: int) -> np.ndarray:
    """The square at the top left of a map, or of an image."""
    inside = np.zeros(size, bool)
    inside[:side, :side] = True
    return inside


SMALL_FCN = [
    # Strides 1, 2, 1, 2, 3×3 each. Padded as TensorFlow does, cell j of a layer with stride 2 begins at 2j of an even
    # number of cells and at 2j - 1 of an odd one, and cell j of one with stride 1 at j - 1. Each ends 2 cells on.
    # side, sides of the maps of the second and the last layer, pixels of a side that cells 0 to 6 depend on
    (28, 14, 7, 28),  # all: cell 6 ends at 14 of the third, 15 of the second, 32 of the first, pixel 33.
    (32, 16, 8, 32),  # as well: all of the pixels, and 77 % of the map.
    (35, 18, 9, 33),  # 35 is odd: 14, 15, 31, pixel 32.
    (42, 21, 11, 32),  # 21 is odd: 13, 14, 30, pixel 31.
    (56, 28, 14, 34),  # 14, 15, 32, pixel 33.
]


@pytest.mark.parametrize("precision", Precision)
@pytest.mark.parametrize(("side", "middle", "map_side", "pixels"), SMALL_FCN)
@pytest.mark.long
def test_pixels_of_small_fcn_follow_its_receptive_field(
    side: int, middle: int, map_side: int, pixels: int, precision: Precision, in_precision: Callable[[Precision], None]
) -> None:
    in_precision(precision)
    backbone = SmallFcn()
    extractor = backbone.build(1)
    assert (middle, map_side) == (-(-side // 2), -(-side // 4))
    assert backbone.map_shape(extractor, (side, side))[:2] == (map_side, map_side)
    reached = reach_of(extractor)(_corner((map_side, map_side), 7), (side, side))
    assert np.array_equal(reached, _corner((side, side), pixels))


@pytest.mark.long
@pytest.mark.parametrize("backbone", [SmallFcn(filters=[8] * 4), ResNet(filters=[8, 8, 8])], ids=lambda b: b.name)
def test_pixels_are_those_that_change_the_cells(backbone: Backbone, in_precision: Callable[[Precision], None]) -> None:
    """Each of 18×21 pixels is changed in turn, in 16 random images, and a window of 2×2 cells looked at."""
    size, window = (18, 21), 2
    keras.config.set_dtype_policy("float64")  # What changes is then far above rounding; `in_precision` sets it back.
    extractor = backbone.build(1)
    rows, columns, _ = backbone.map_shape(extractor, size)
    changed = np.zeros(size, bool)
    for image in np.random.default_rng(0).integers(0, 256, (16, *size, 1), np.uint8):
        images = np.repeat(image[None], 1 + image.size, axis=0)
        for pixel in range(image.size):
            images[1 + pixel].flat[pixel] ^= 128
        seen = extractor(images, training=False).numpy()[:, :window, :window]
        changed |= (abs(seen[1:] - seen[0]).max(axis=(1, 2, 3)) > 1e-12).reshape(size)
    assert np.array_equal(reach_of(extractor)(_corner((rows, columns), window), size), changed)
    assert 0 < changed.mean() < 1


def _excited(pool: keras.Layer) -> Callable[[KerasTensor], KerasTensor]:
    """Squeeze and excitation: a number for each channel, made of the whole map, times the map."""

    def features(x: KerasTensor) -> KerasTensor:
        x = layers.Conv2D(4, 3, padding="same", activation="relu")(x)
        gate = layers.Dense(4, activation="sigmoid")(layers.Dense(2, activation="relu")(pool(x)))
        return layers.Multiply()([x, gate])

    return features


def _rounded(x: KerasTensor) -> KerasTensor:
    whole = keras.ops.cast(keras.ops.round(x / 3), "int32")
    return layers.Conv2D(4, 3)(keras.ops.cast(whole, "float32"))


def _clipped_by_hand(x: KerasTensor) -> KerasTensor:
    return keras.ops.minimum(keras.ops.maximum(layers.Conv2D(4, 3)(x), 0.0), 1e-3)


def _attending(x: KerasTensor) -> KerasTensor:
    """Each cell is a mean of all cells; of scores as far apart as these, one counts and the others' parts are 0."""
    x = layers.Conv2D(4, 3, padding="same")(x)
    return layers.MultiHeadAttention(1, 4, attention_axes=(1, 2))(x, x)


ONE_WINDOW = _corner((12, 12), 3)
"""What the first cell of one 3×3 convolution depends on."""
STEPS = np.arange(12) % 2 == 0
PATHS = {
    # features, cells of the first row and column that are looked at, pixels of 12×12 that these depend on
    "padded border": (stacked(layers.Conv2D(4, 3, padding="same")), 1, _corner((12, 12), 2)),
    "what is left over": (stacked(layers.Conv2D(4, 3, strides=2)), 9, _corner((12, 12), 11)),  # 2 · 4 + 3
    "skipped pixels": (stacked(layers.Conv2D(4, 1, strides=2)), 9, np.outer(STEPS, STEPS)),
    "unit that is off": (stacked(layers.Rescaling(-1e3), layers.Conv2D(1, 3), layers.ReLU()), 1, ONE_WINDOW),
    "unit at its limit": (stacked(layers.Conv2D(4, 3), layers.ReLU(max_value=1e-3)), 1, ONE_WINDOW),
    "limit by hand": (_clipped_by_hand, 1, ONE_WINDOW),
    "whole numbers": (_rounded, 1, ONE_WINDOW),
    "saturated": (stacked(layers.Rescaling(1e3), layers.Conv2D(4, 3, activation="sigmoid")), 1, ONE_WINDOW),
    "zero weights": (stacked(layers.Conv2D(4, 3, kernel_initializer="zeros")), 1, ONE_WINDOW),
    "zero scale": (stacked(layers.Conv2D(4, 3), layers.BatchNormalization(gamma_initializer="zeros")), 1, ONE_WINDOW),
    "largest of a window": (stacked(layers.MaxPooling2D(3)), 1, ONE_WINDOW),
    "mean of a window": (stacked(layers.AveragePooling2D(3)), 1, ONE_WINDOW),
    "vanishing": (stacked(*(layers.Conv2D(1, 1, activation="tanh") for _ in range(20))), 1, _corner((12, 12), 1)),
    "mean of the map": (_excited(layers.GlobalAveragePooling2D(keepdims=True)), 1, _corner((12, 12), 12)),
    "attention": (_attending, 1, _corner((12, 12), 12)),
    "largest of the map": (_excited(layers.GlobalMaxPooling2D(keepdims=True)), 1, _corner((12, 12), 12)),
}


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.long
def test_pixels_are_those_from_which_a_path_leads_to_a_cell(path: str) -> None:
    features, side, expected = PATHS[path]
    images = keras.Input((None, None, 1))
    extractor = keras.Model(images, features(images))
    map_size = extractor.compute_output_shape((None, 12, 12, 1))[1:3]
    reached = reach_of(extractor)(_corner(map_size, side), (12, 12))
    assert np.array_equal(reached, expected), reached.astype(int)


@pytest.mark.long
def test_a_model_of_the_users_own_is_looked_at_whatever_numbers_it_takes(tmp_path: Path) -> None:
    """3×3, no padding, then 2×2: cell j depends on 2j to 2j + 3. Trained at 12 px on 5 cells, the last pixel is 11."""
    for dtype in ("uint8", "float32"):
        path = tmp_path / f"{dtype}.keras"
        model = keras.Sequential(
            [
                layers.Input((12, 12, 3), dtype=dtype),
                layers.Rescaling(1 / 255),
                layers.Conv2D(4, 3, activation="relu"),
                layers.MaxPooling2D(),
                layers.AveragePooling2D(5),
                layers.Flatten(),
                layers.Dense(3),
            ]
        )
        model.save(path)
        backbone = FromModel(path=str(path))
        extractor = backbone.build(1)  # Gray images, repeated.
        assert backbone.map_shape(extractor, (17, 17)) == (7, 7, 4)
        reached = reach_of(extractor)(_corner((7, 7), 5), (17, 17))
        assert np.array_equal(reached, _corner((17, 17), 12))
        reached = reach_of(take_apart(model, (12, 12)).extractor)(_corner((7, 7), 5), (17, 17))
        assert np.array_equal(reached, _corner((17, 17), 12))


@pytest.mark.slow
def test_every_pixel_of_a_network_with_squeeze_and_excitation_is_seen(tmp_path: Path) -> None:
    keras.applications.MobileNetV3Small(weights=None, input_shape=(64, 64, 3), classes=3).save(tmp_path / "own.keras")
    backbone = FromModel(path=str(tmp_path / "own.keras"))
    extractor = backbone.build(3)
    rows, columns, _ = backbone.map_shape(extractor, (96, 160))
    assert reach_of(extractor)(_corner((rows, columns), 1), (96, 160)).all()


def test_memory_is_that_of_a_few_layers_of_one_image() -> None:
    """1,024 px and a map of 256×256 cells: the first layer's 32 channels in float32 are 134 MB."""
    traced = traced_reach(float_twin(SmallFcn().build(1)))

    @tf.function
    def at_1024() -> tf.Tensor:
        return traced.python_function(tf.ones((256, 256)), tf.constant((1024, 1024)))

    layer = 1024 * 1024 * 32 * 4
    assert layer < peak_bytes(at_1024.get_concrete_function().graph) < 6 * layer  # 0.8 GB
