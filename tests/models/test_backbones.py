"""Backbones: shapes and parameters by arithmetic, refusals, and one start for all heads."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from pipeline.common.errors import ConfigError
from pipeline.heads.average import AveragePool
from pipeline.heads.flatten import FlattenDense
from pipeline.heads.global_pools import GlobalAveragePool
from pipeline.models.backbones.base import Backbone, ImageTooSmallError
from pipeline.models.backbones.pretrained import KerasApplication
from pipeline.models.backbones.small import ResNet, SmallFcn
from pipeline.models.build import build_model


def test_small_fcn_parameters_equal_the_arithmetic() -> None:
    built = SmallFcn().build(channels=1)
    convolutions = 9 * 1 * 32 + 9 * 32 * 32 + 9 * 32 * 64 + 9 * 64 * 64
    batch_norms = 4 * (32 + 32 + 64 + 64)  # scale, offset, moving mean, moving variance of each channel
    assert built.count_params() == convolutions + batch_norms == 65_568
    assert built.count_params() + 64 * 10 + 10 < 100_000  # with a pooling head


def test_resnet_parameters_equal_the_arithmetic() -> None:
    built = ResNet(filters=[16, 32], blocks=1).build(channels=3)
    stem = 9 * 3 * 16 + 4 * 16
    first = 2 * (9 * 16 * 16 + 4 * 16)  # same channels, so the shortcut has no weights
    second = (9 * 16 * 32 + 4 * 32) + (9 * 32 * 32 + 4 * 32) + (16 * 32 + 4 * 32)  # and a 1×1 shortcut
    assert built.count_params() == stem + first + second


@pytest.mark.parametrize(
    ("backbone", "size", "expected"),
    [
        (SmallFcn(), (28, 28), (7, 7, 64)),
        (SmallFcn(), (29, 28), (8, 7, 64)),  # ⌈⌈29/2⌉/2⌉ = 8
        (SmallFcn(), (4, 4), (1, 1, 64)),
        (SmallFcn(filters=[8], strides=[3]), (10, 7), (4, 3, 8)),  # ⌈10/3⌉, ⌈7/3⌉
        (ResNet(), (32, 32), (8, 8, 64)),
        (ResNet(filters=[8, 16]), (9, 6), (5, 3, 16)),
    ],
    ids=str,
)
def test_map_shape_is_what_the_model_gives(
    backbone: Backbone, size: tuple[int, int], expected: tuple[int, int, int]
) -> None:
    built = backbone.build(channels=1)
    assert backbone.map_shape(built, size) == expected
    assert built(np.zeros((2, *size, 1), np.uint8)).shape == (2, *expected)


@pytest.mark.parametrize(
    ("backbone", "smallest"), [(SmallFcn(), 4), (ResNet(), 4), (SmallFcn(filters=[8] * 3, strides=[2] * 3), 8)]
)
def test_an_image_smaller_than_the_strides_is_refused_with_the_numbers(backbone: Backbone, smallest: int) -> None:
    built = backbone.build(channels=1)
    backbone.map_shape(built, (smallest, smallest))
    with pytest.raises(
        ImageTooSmallError, match=rf"at least {smallest}×{smallest} px.*received {smallest}×{smallest - 1}"
    ):
        backbone.map_shape(built, (smallest, smallest - 1))


@pytest.mark.long
def test_a_keras_application_takes_grayscale_at_unknown_size_and_refuses_small_images() -> None:
    backbone = KerasApplication(application="MobileNetV2")
    built = backbone.build(channels=1)
    assert backbone.map_shape(built, (64, 96)) == (2, 3, 1280)
    assert built(np.zeros((1, 64, 96, 1), np.uint8)).shape == (1, 2, 3, 1280)
    with pytest.raises(ImageTooSmallError, match="leaves no feature map of a 28×28 px image"):
        backbone.map_shape(built, (28, 28))


@pytest.mark.long
def test_a_keras_application_scales_pixels_as_its_weights_expect() -> None:
    backbone = KerasApplication(application="MobileNetV2")
    inputs = keras.Input((None, None, 3), dtype="uint8")
    keras.utils.set_random_seed(0)
    ours = keras.Model(inputs, backbone.features(inputs))
    keras.utils.set_random_seed(0)
    theirs = keras.applications.MobileNetV2(include_top=False, weights=None, input_shape=(None, None, 3))
    image = np.random.default_rng(0).integers(0, 256, (1, 64, 64, 3), np.uint8)
    expected = theirs(keras.applications.mobilenet_v2.preprocess_input(image.astype(np.float32)))
    assert np.allclose(ours(image), expected, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("application", "at_64_px", "at_65_px"),
    [
        # Padded by one cell on one side in each of five halvings, so that 65 is ⌊⌊…65/2⌋…/2⌋ = 2.
        ("MobileNetV2", (2, 2, 1280), (2, 2, 1280)),
        ("EfficientNetB0", (2, 2, 1280), (2, 2, 1280)),
        # Padded on both sides: ⌈⌈…65/2⌉…/2⌉ = 3.
        ("ResNet50", (2, 2, 2048), (3, 3, 2048)),
    ],
)
def test_keras_applications_run_compiled_at_sizes_unknown_to_the_graph(
    application: str, at_64_px: tuple[int, int, int], at_65_px: tuple[int, int, int]
) -> None:
    backbone = KerasApplication(application=application)
    built = backbone.build(channels=3)
    compiled = tf.function(lambda images: built(images, training=False)).get_concrete_function(
        tf.TensorSpec((None, None, None, 3), tf.uint8)
    )
    for side, expected in ((64, at_64_px), (65, at_65_px)):
        assert backbone.map_shape(built, (side, side)) == expected
        maps = compiled(tf.zeros((2, side, side, 3), tf.uint8)).numpy()
        assert maps.shape == (2, *expected)
        assert np.isfinite(maps).all()


@pytest.mark.long
def test_a_weights_file_gives_its_weights_to_a_keras_application(tmp_path: Path) -> None:
    network = keras.applications.MobileNetV2(include_top=False, weights=None, input_shape=(None, None, 3))
    network.save_weights(tmp_path / "mobile.weights.h5")
    backbone = KerasApplication(weights=str(tmp_path / "mobile.weights.h5"), trainable=False)
    built = backbone.build(channels=3)
    assert backbone.file == tmp_path / "mobile.weights.h5"
    assert all(np.array_equal(*pair) for pair in zip(built.get_weights(), network.get_weights(), strict=True))
    assert built.trainable_weights == []


@pytest.mark.long
@pytest.mark.filterwarnings("ignore:Skipping nested container")
def test_weights_that_do_not_fit_a_keras_application_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.weights.h5"
    keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2D(4, 3)]).save_weights(path)
    for content in (path.read_bytes(), b"no weights"):
        path.write_bytes(content)
        with pytest.raises(ConfigError) as caught:
            KerasApplication(weights=str(path)).build(channels=3)
        message = str(caught.value)
        assert message.startswith(f"backbone.weights={path}: does not fit MobileNetV2: ")
        assert message.endswith("Use a weights file of this network without its top.")
        assert "\n" not in message


@pytest.mark.parametrize("backbone", [SmallFcn(trainable=False), ResNet(trainable=False)], ids=str)
def test_a_frozen_backbone_has_nothing_to_train(backbone: Backbone) -> None:
    model = build_model(backbone, GlobalAveragePool(), (28, 28, 1), 10, seed=0)
    assert model.trainable_weights == model.get_layer("head").trainable_weights


def test_an_unknown_application_is_refused() -> None:
    with pytest.raises(ConfigError, match="backbone.application=MobileNet7: is not a network of keras.applications"):
        KerasApplication(application="MobileNet7").build(channels=3)


@pytest.mark.long
@pytest.mark.parametrize("backbone", [SmallFcn(), ResNet()], ids=str)
def test_all_heads_start_from_bit_identical_backbone_weights(backbone: Backbone) -> None:
    heads = [FlattenDense(), FlattenDense(hidden_units=[8], dropout=0.3), AveragePool(), GlobalAveragePool()]
    models = [build_model(backbone, head, (28, 28, 1), 10, seed=3) for head in heads]
    starts = [model.get_layer("backbone").get_weights() for model in models]
    for start in starts[1:]:
        assert all(np.array_equal(mine, first) for mine, first in zip(start, starts[0], strict=True))
    # Heads of the same shape, too, and another seed starts elsewhere.
    pools = [model.get_layer("head").get_weights()[0] for model in models[2:]]
    assert np.array_equal(pools[0], pools[1])
    other = build_model(backbone, GlobalAveragePool(), (28, 28, 1), 10, seed=4)
    assert not np.array_equal(other.get_layer("backbone").get_weights()[0], starts[0][0])
