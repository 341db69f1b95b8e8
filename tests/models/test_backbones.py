"""Backbones: shapes and parameters by arithmetic, refusals, and one start for all heads."""

from __future__ import annotations

from pathlib import Path
from urllib.error import URLError

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
from tests.conftest import run_program


def test_small_fcn_parameters_equal_the_arithmetic() -> None:
    built = SmallFcn().build(channels=1)
    convolutions = 9 * 1 * 32 + 9 * 32 * 32 + 9 * 32 * 64 + 9 * 64 * 64
    batch_norms = 4 * (32 + 32 + 64 + 64)  # scale, offset, moving mean, moving variance of each channel
    assert built.count_params() == convolutions + batch_norms == 65_568
    assert built.count_params() + 64 * 10 + 10 < 100_000  # with a pooling head


def test_kernels_change_the_parameters_and_dilations_do_not() -> None:
    mixed = SmallFcn(filters=[32, 80, 64, 64], kernels=[1, 3, 1, 3]).build(channels=1)
    convolutions = 1 * 1 * 32 + 9 * 32 * 80 + 1 * 80 * 64 + 9 * 64 * 64
    assert mixed.count_params() == convolutions + 4 * (32 + 80 + 64 + 64) == 66_016
    dilated = SmallFcn(dilations=[2, 1, 3, 1]).build(channels=1)
    assert dilated.count_params() == 65_568
    assert SmallFcn().map_shape(dilated, (28, 28)) == (7, 7, 64)


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


@pytest.mark.slow
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


NETWORKS = [name for name in dir(keras.applications) if name[0].isupper()]


@pytest.mark.parametrize("application", NETWORKS)
def test_pixels_are_scaled_as_the_networks_own_preprocess_input_does(application: str) -> None:
    family = getattr(keras.applications, application).__module__.rpartition(".")[2]
    expected_of = getattr(keras.applications, family).preprocess_input
    pixels = np.random.default_rng(0).integers(0, 256, (2, 5, 4, 3), np.uint8)
    for image in (pixels, pixels[..., :1]):
        inputs = keras.Input((None, None, image.shape[-1]), dtype="uint8")
        ours = keras.Model(inputs, KerasApplication(application=application).preprocessed(inputs))
        repeated = np.broadcast_to(image, (2, 5, 4, 3)).astype(np.float32)
        assert ours(image).numpy() == pytest.approx(expected_of(repeated.copy()), abs=1e-5)
    # All of them but those that scale inside change something, and these change nothing.
    inside = family in ("convnext", "efficientnet", "efficientnet_v2", "mobilenet_v3")
    assert np.array_equal(expected_of(repeated.copy()), repeated) == inside


@pytest.fixture
def keras_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where Keras keeps what it downloads, empty; whatever lies there counts as whole, and there is no network."""

    def refuse(*_: object) -> None:
        raise URLError("Connection refused")

    monkeypatch.setattr("keras.src.backend.config._KERAS_DIR", str(tmp_path))
    monkeypatch.setattr("keras.src.utils.file_utils.validate_file", lambda *_, **__: True)
    monkeypatch.setattr("keras.src.utils.file_utils.urlretrieve", refuse)
    (tmp_path / "models").mkdir()
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize(
    ("application", "name"),
    [
        ("MobileNetV2", "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_224_no_top.h5"),
        ("EfficientNetB0", "efficientnetb0_notop.h5"),  # Scales pixels inside, with one layer more for these weights.
    ],
)
def test_imagenet_is_the_file_that_keras_keeps(application: str, name: str, keras_home: Path) -> None:
    network = getattr(keras.applications, application)
    path = keras_home / "models" / name
    network(include_top=False, weights=None, input_shape=(None, None, 3)).save(path)
    backbone = KerasApplication(application=application, weights="imagenet")
    assert backbone.file == path
    theirs = network(include_top=False, weights="imagenet", input_shape=(None, None, 3))
    family = getattr(keras.applications, network.__module__.rpartition(".")[2])
    image = np.random.default_rng(0).integers(0, 256, (1, 64, 64, 3), np.uint8)
    expected = theirs(family.preprocess_input(image.astype(np.float32))).numpy()
    assert np.abs(backbone.build(3)(image) - expected).max() <= 1e-5 * np.abs(expected).max()
    assert expected.std() > 0


@pytest.mark.long
def test_imagenet_without_a_network_says_which_file_to_put_where(
    keras_home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ConfigError) as caught:
        KerasApplication(weights="imagenet").build(channels=3)
    name = "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_224_no_top.h5"
    origin = f"https://storage.googleapis.com/tensorflow/keras-applications/mobilenet_v2/{name}"
    assert str(caught.value) == (
        f"backbone.weights=imagenet: Keras looks for {keras_home}/models/{name}, which is not there or not whole, and "
        f"cannot download it: URL fetch failure on {origin}: None -- Connection refused. Download {origin} where there "
        "is a network and put it there, or use backbone.weights=null."
    )
    assert capsys.readouterr() == ("", "")


@pytest.mark.program
@pytest.mark.slow
def test_imagenet_behind_a_network_that_refuses_ends_in_one_message(tmp_path: Path) -> None:
    settings = ("backbone=keras_application", "backbone.weights=imagenet", "dataset.image_size=[64,64]")
    refused = {"https_proxy": "http://127.0.0.1:9", "HTTPS_PROXY": "http://127.0.0.1:9", "KERAS_HOME": str(tmp_path)}
    result = run_program("pipeline.train", *settings, cwd=tmp_path, **refused)
    assert result.returncode == 2
    assert f"backbone.weights=imagenet: Keras looks for {tmp_path}/models/mobilenet_v2" in " ".join(
        result.stderr.split()
    )
    assert "Traceback" not in result.stderr
    assert "Downloading data" not in result.stdout + result.stderr
