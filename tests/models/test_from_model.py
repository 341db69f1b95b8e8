"""A user's model as the backbone: where it is cut, that it stays the same function, and what is refused."""

from __future__ import annotations

import io
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import h5py
import keras
import mlflow
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from keras import layers
from mlflow import MlflowClient

from pipeline.common.errors import ConfigError
from pipeline.config.identify import identify
from pipeline.data import source
from pipeline.data.batches import Data
from pipeline.data.facts import DatasetFacts
from pipeline.data.settings import Dataset
from pipeline.heads.average import AveragePool
from pipeline.heads.flatten import FlattenDense
from pipeline.heads.global_pools import GlobalAveragePool
from pipeline.heads.verdict import Verdict
from pipeline.models.backbones.base import ImageSizeError
from pipeline.models.backbones.pretrained import FromModel
from pipeline.models.build import build_model
from pipeline.models.graph import leaves
from pipeline.other_sizes.measure import check_plan, measure_sizes
from pipeline.other_sizes.plan import SizePlan
from pipeline.other_sizes.settings import SizeProbe
from pipeline.training.fit import fit
from pipeline.training.settings import KeepWeights, Training
from tests.conftest import run_program, typed

Layers = Callable[[keras.KerasTensor], keras.KerasTensor]


def functional(of_image: Layers, shape: tuple[int | None, ...] = (28, 28, 1), dtype: str = "float32") -> keras.Model:
    """A functional model of one image."""
    image = keras.Input(shape, dtype=dtype)
    return keras.Model(image, of_image(image))


def saved(model: keras.Model, directory: Path) -> str:
    path = directory / "my.keras"
    model.save(path)
    return str(path)


def pixels(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def relative_difference(received: np.ndarray, expected: np.ndarray) -> float:
    return float(np.abs(received - expected).max() / np.abs(expected).max())


def stem(x: keras.KerasTensor) -> keras.KerasTensor:
    """28×28 px to a 14×14 map of 4 channels."""
    return layers.Conv2D(4, 3, strides=2, padding="same", activation="relu", name="stem")(x)


def sequential() -> keras.Model:
    model = keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.Rescaling(1 / 255),
            layers.Conv2D(8, 3, activation="relu"),
            layers.BatchNormalization(name="norm"),
            layers.MaxPooling2D(),
            layers.Conv2D(16, 3, padding="same", activation="relu", name="last"),
            layers.Dropout(0.5),
            layers.Flatten(),
            layers.Dense(10),
        ]
    )
    # Moving averages as after a training.
    model.get_layer("norm").set_weights([np.linspace(0.5, 2, 8)] * 4)
    return model


def nested() -> keras.Model:
    """Models within models, which name their layers alike, one of them called twice and one in inference mode."""

    def block(name: str, inner: list[keras.Layer]) -> keras.Model:
        convolution = layers.Conv2D(4, 3, padding="same", name="conv")
        return keras.Sequential([keras.Input((14, 14, 4)), convolution, layers.BatchNormalization(), *inner], name=name)

    first, second = block("first", []), block("second", [block("inner", [layers.ReLU()])])

    def of_image(x: keras.KerasTensor) -> keras.KerasTensor:
        x = stem(x)
        x = keras.ops.relu(first(first(x))) + second(x, training=False)
        return layers.Dense(10)(layers.GlobalAveragePooling2D()(layers.Identity(name="last")(x)))

    return functional(of_image)


def residual(x: keras.KerasTensor) -> keras.KerasTensor:
    x = stem(x)
    x = layers.Add(name="last")([x, layers.Conv2D(4, 3, padding="same")(x)])
    return layers.Dense(10)(layers.GlobalAveragePooling2D()(x))


def squeeze_and_excite(x: keras.KerasTensor) -> keras.KerasTensor:
    x = stem(x)
    weights = layers.Dense(4, activation="sigmoid")(layers.GlobalAveragePooling2D()(x))
    x = layers.Multiply(name="last")([x, layers.Reshape((1, 1, 4))(weights)])
    return layers.Dense(10)(layers.Flatten()(x))


def unet(x: keras.KerasTensor) -> keras.KerasTensor:
    """Wants even sizes: what the stride of 2 rounds up does not fit what it came from."""
    upsampled = layers.UpSampling2D()(stem(x))
    x = layers.Conv2D(4, 1, name="last")(layers.Concatenate()([x, upsampled]))
    return layers.Dense(10)(layers.GlobalAveragePooling2D()(x))


MODELS = {
    # model, its map at 28×28 px
    "sequential with flatten": (sequential, (13, 13, 16)),  # ⌊(28 - 2) / 2⌋
    "functional with global average": (
        lambda: functional(lambda x: layers.GlobalAveragePooling2D()(layers.ReLU(name="last")(stem(x)))),
        (14, 14, 4),
    ),
    "models within the model": (nested, (14, 14, 4)),
    "residual": (lambda: functional(residual), (14, 14, 4)),
    "squeeze and excite": (lambda: functional(squeeze_and_excite), (14, 14, 4)),
    "U-Net": (lambda: functional(unet), (28, 28, 4)),
}


@pytest.mark.long
@pytest.mark.parametrize("name", MODELS)
def test_the_extractor_is_the_models_own_function_up_to_its_last_map(name: str, tmp_path: Path) -> None:
    make, expected_shape = MODELS[name]
    model = make()
    backbone = FromModel(path=saved(model, tmp_path))
    built = backbone.build(channels=1)
    assert backbone.map_shape(built, (28, 28)) == expected_shape
    images = pixels(3, 28, 28, 1)
    own = keras.Model(model.inputs[0], model.get_layer("last").output)(images.astype(np.float32), training=False)
    assert relative_difference(built(images), own) < 1e-6
    # With twice the rows and three times the columns, too: 56 = 2 · 28, 84 = 3 · 28.
    assert built(pixels(1, 56, 84, 1)).shape == (1, *backbone.map_shape(built, (56, 84)))


def test_parameters_are_those_up_to_the_cut(tmp_path: Path) -> None:
    built = FromModel(path=saved(sequential(), tmp_path)).build(channels=1)
    # 3×3 convolutions with bias, and batch norm's scale, offset, mean and variance
    assert built.count_params() == (9 * 1 * 8 + 8) + 4 * 8 + (9 * 8 * 16 + 16)


def test_at_another_size_it_is_the_model_built_for_that_size(tmp_path: Path) -> None:
    model = functional(residual)
    built = FromModel(path=saved(model, tmp_path)).build(channels=1)
    larger = functional(residual, (37, 50, 1))
    larger.set_weights(model.get_weights())
    own = keras.Model(larger.input, larger.get_layer("last").output)
    images = pixels(2, 37, 50, 1)
    assert relative_difference(built(images), own(images.astype(np.float32))) < 1e-6


def test_the_scale_of_pixels_is_no_weight_that_is_drawn_anew(tmp_path: Path) -> None:
    scaling = layers.Normalization(axis=None)
    scaling.adapt(np.array([0.0, 200.0]))  # Mean 100, variance 100².
    path = saved(functional(lambda x: layers.Dense(3)(layers.GlobalAveragePooling2D()(stem(scaling(x))))), tmp_path)
    fresh = FromModel(path=path, fresh_weights=True).build(channels=1)
    (kept,) = [layer for layer in leaves(fresh) if isinstance(layer, layers.Normalization)]
    assert kept(np.array([[300.0]])).numpy().item() == pytest.approx((300 - 100) / 100)


@pytest.mark.parametrize("make", [sequential, nested], ids=["sequential", "nested"])
def test_fresh_weights_are_drawn_by_the_seed_for_the_same_layers(
    make: Callable[[], keras.Model], tmp_path: Path
) -> None:
    path = saved(make(), tmp_path)
    trained = FromModel(path=path).build(channels=1)
    fresh = []
    for seed in (0, 0, 1):
        keras.utils.set_random_seed(seed)
        fresh.append(FromModel(path=path, fresh_weights=True).build(channels=1))
    for one in fresh:
        assert [weight.shape for weight in one.weights] == [weight.shape for weight in trained.weights]
        assert one.compute_output_shape((None, 28, 28, 1)) == trained.compute_output_shape((None, 28, 28, 1))
    kernels = [model.get_layer(index=-1).get_weights()[0] for model in (trained, *fresh)]
    assert np.array_equal(kernels[1], kernels[2])
    assert not np.array_equal(kernels[1], kernels[3])
    assert not np.array_equal(kernels[0], kernels[1])


def test_a_model_for_any_size_stays_one(tmp_path: Path) -> None:
    backbone = FromModel(path=saved(functional(residual, (None, None, 1)), tmp_path))
    built = backbone.build(channels=1)
    assert backbone.map_shape(built, (9, 6)) == (5, 3, 4)  # ⌈9/2⌉, ⌈6/2⌉


ENDINGS: dict[str, tuple[Layers, tuple[int, int, int]]] = {
    # what follows the 14×14 map of 4 channels, the map that is left
    "window of the whole map": (lambda x: layers.Flatten()(layers.AveragePooling2D(14)(x)), (14, 14, 4)),
    "smaller window": (lambda x: layers.Flatten()(layers.AveragePooling2D(7)(x)), (2, 2, 4)),
    "kept dimensions": (lambda x: layers.GlobalAveragePooling2D(keepdims=True)(x), (14, 14, 4)),
    "kept dimensions, maximum": (lambda x: layers.GlobalMaxPooling2D(keepdims=True)(x), (14, 14, 4)),
    "1×1 convolution of the pooled": (
        lambda x: layers.Flatten()(layers.Conv2D(9, 1)(layers.AveragePooling2D(14)(x))),
        (14, 14, 4),
    ),
    "more of the network after the pooled": (
        lambda x: layers.Flatten()(layers.Conv2D(9, 3, padding="same")(layers.AveragePooling2D(14)(x))),
        (1, 1, 9),
    ),
    "vector as a map": (lambda x: layers.Reshape((1, 1, 4))(layers.GlobalAveragePooling2D()(x)), (14, 14, 4)),
    "reshape": (lambda x: layers.Dense(10)(layers.Reshape((14 * 14 * 4,))(x)), (14, 14, 4)),
    "map of classes": (
        lambda x: layers.Softmax()(layers.GlobalAveragePooling2D()(layers.Conv2D(10, 1)(x))),
        (14, 14, 10),
    ),
    "1×1 by strides": (lambda x: layers.Flatten()(layers.Conv2D(9, 3, strides=14, padding="same")(x)), (1, 1, 9)),
    "largest of the whole map": (lambda x: layers.Flatten()(layers.MaxPooling2D(14)(x)), (14, 14, 4)),
    "window of most of the map": (lambda x: layers.Flatten()(layers.MaxPooling2D(13)(x)), (1, 1, 4)),
}


@pytest.mark.parametrize("name", ENDINGS)
def test_the_cut_is_before_what_collapses_the_map(name: str, tmp_path: Path) -> None:
    ending, expected_shape = ENDINGS[name]
    backbone = FromModel(path=saved(functional(lambda x: ending(stem(x))), tmp_path))
    assert backbone.map_shape(backbone.build(channels=1), (28, 28)) == expected_shape


@pytest.mark.long
def test_a_model_called_in_inference_mode_stays_in_it_and_takes_every_size(tmp_path: Path) -> None:
    """As Keras's guide to transfer learning has it; an Add layer takes no such argument."""
    inner = keras.Input((28, 28, 1))
    x = layers.BatchNormalization()(stem(inner))
    base = keras.Model(inner, layers.Add()([x, x]))
    path = saved(functional(lambda x: layers.GlobalAveragePooling2D()(base(x, training=False))), tmp_path)
    backbone = FromModel(path=path)
    built = backbone.build(channels=1)
    assert [backbone.map_shape(built, (side, side)) for side in (28, 57)] == [(14, 14, 4), (29, 29, 4)]
    images = pixels(2, 28, 28, 1)
    assert np.array_equal(built(images, training=True), built(images, training=False))
    fresh = FromModel(path=path, fresh_weights=True).build(channels=1)  # From scratch, batch norm has to learn.
    assert not np.array_equal(fresh(images, training=True), fresh(images, training=False))


def test_a_flatten_of_another_order_after_the_cut_does_not_matter(tmp_path: Path) -> None:
    path = saved(functional(lambda x: layers.Flatten(data_format="channels_first")(stem(x))), tmp_path)
    backbone = FromModel(path=path)
    assert backbone.map_shape(backbone.build(channels=1), (28, 28)) == (14, 14, 4)


def test_other_formats_are_told_what_they_are(tmp_path: Path) -> None:
    model = sequential()
    old, weights, exported = (tmp_path / name for name in ("old.h5", "my.weights.h5", "exported"))
    model.save(old)
    model.save_weights(weights)
    model.export(exported, verbose=False)
    keras_2 = tmp_path / "keras_2"
    shutil.copytree(exported, keras_2)
    (keras_2 / "keras_metadata.pb").touch()
    for path, message in (
        (old, "is a model in the older HDF5 format. Run python -c"),
        (weights, "holds weights alone, without the layers. Build the model, read them with model.load_weights"),
        (exported, "is a SavedModel, a directory: it holds what the model computes, but not its layers."),
        (keras_2, "is a SavedModel of Keras 2, a directory. Where tf_keras is installed"),
        (tmp_path, "is a directory. Give the path of a .keras file"),
    ):
        with pytest.raises(ConfigError) as caught:
            FromModel(path=str(path))
        assert str(caught.value).startswith(f"backbone.path={path}: {message}")


@pytest.mark.long
def test_a_named_layer_is_where_to_cut(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = saved(nested(), tmp_path)
    backbone = FromModel(path=path, layer="stem")
    with caplog.at_level("INFO", logger="pipeline"):
        built = backbone.build(channels=1)
        backbone.build(channels=1)
    assert built.count_params() == 9 * 1 * 4 + 4
    assert caplog.messages == [f"{path}: cut after stem (Conv2D), map 14×14×4 of images 28×28×1"]
    # Of the first model within the model, which names it so.
    inner = FromModel(path=path, layer="conv").build(channels=1)
    assert inner.count_params() == (9 * 1 * 4 + 4) + (9 * 4 * 4 + 4) + 4 * 4  # It is called twice, with batch norm.


def test_the_log_names_a_layer_that_the_user_knows(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Also where the map goes from one model within the model to another."""
    first = keras.Sequential([keras.Input((28, 28, 1)), layers.Conv2D(4, 3, name="mine")], name="first")
    second = keras.Sequential([keras.Input((26, 26, 4)), layers.GlobalAveragePooling2D()], name="second")
    path = saved(keras.Sequential([keras.Input((28, 28, 1)), first, second]), tmp_path)
    with caplog.at_level("INFO", logger="pipeline"):
        FromModel(path=path).build(channels=1)
    assert caplog.messages == [f"{path}: cut after mine (Conv2D), map 26×26×4 of images 28×28×1"]


def test_two_builds_share_no_weights(tmp_path: Path) -> None:
    backbone = FromModel(path=saved(functional(residual), tmp_path))
    first, second = backbone.build(channels=1), backbone.build(channels=1)
    before = second.get_weights()
    first.set_weights([weight + 1 for weight in first.get_weights()])
    assert all(np.array_equal(now, then) for now, then in zip(second.get_weights(), before, strict=True))


@pytest.mark.long
def test_all_heads_and_seeds_start_from_the_weights_of_the_file(tmp_path: Path) -> None:
    model = sequential()
    backbone = FromModel(path=saved(model, tmp_path))
    for seed, head in enumerate([FlattenDense(), AveragePool(), GlobalAveragePool()]):
        start = build_model(backbone, head, (28, 28, 1), 10, seed).get_layer("backbone").get_weights()
        expected = model.get_weights()[:-2]  # without the Dense layer's
        assert all(np.array_equal(mine, theirs) for mine, theirs in zip(start, expected, strict=True))


@pytest.mark.parametrize("dtype", ["float32", "uint8"])
def test_pixels_are_scaled_as_the_model_expects(dtype: str, tmp_path: Path) -> None:
    of_image = lambda x: layers.Conv2D(1, 1, kernel_initializer="ones")(layers.Rescaling(1.0)(x))  # noqa: E731
    path = saved(functional(of_image, (4, 4, 1), dtype), tmp_path)
    images = pixels(2, 5, 6, 1)
    # uint8 takes whole numbers.
    scale, offset = (1 / 255, -0.5) if dtype == "float32" else (1, 0)
    built = FromModel(path=path, scale=scale, offset=offset).build(channels=1)
    assert np.allclose(built(images), images.astype(np.float32) * scale + offset, atol=1e-6)


def test_grayscale_images_are_repeated_for_a_model_of_three_channels(tmp_path: Path) -> None:
    path = saved(functional(lambda x: layers.Flatten()(stem(x)), (28, 28, 3)), tmp_path)
    images = pixels(2, 28, 28, 1)
    gray, color = (FromModel(path=path).build(channels) for channels in (1, 3))
    assert np.array_equal(gray(images), color(np.repeat(images, 3, axis=-1)))


@keras.saving.register_keras_serializable("test_from_model")
class Subclassed(keras.Model):
    def call(self, images: tf.Tensor) -> tf.Tensor:
        return images


@keras.saving.register_keras_serializable("test_from_model")
class BrightensWhatItKnowsTheSizeOf(layers.Layer):
    def call(self, maps: tf.Tensor) -> tf.Tensor:
        return maps if maps.shape[1] is None else maps + 1


def _subclassed() -> keras.Model:
    model = Subclassed()
    model(np.zeros((1, 28, 28, 1)))
    return model


def _channels_first(x: keras.KerasTensor) -> keras.KerasTensor:
    maps = layers.Conv2D(4, 3, data_format="channels_first")(x)
    return layers.GlobalAveragePooling2D(data_format="channels_first")(maps)


def _custom_layer() -> keras.Model:
    class Unknown(layers.Layer):
        def call(self, maps: tf.Tensor) -> tf.Tensor:
            return maps

    return functional(lambda x: layers.Flatten()(Unknown()(stem(x))))


def _two_inputs() -> keras.Model:
    image, vector = keras.Input((28, 28, 1)), keras.Input((3,))
    return keras.Model([image, vector], layers.Concatenate()([layers.Flatten()(stem(image)), vector]))


def _two_branches(x: keras.KerasTensor) -> keras.KerasTensor:
    branches = [layers.Conv2D(4, 3, name=name)(x) for name in ("left", "right")]
    return layers.Concatenate()([layers.GlobalAveragePooling2D()(branch) for branch in branches])


def _dense_in_between(x: keras.KerasTensor) -> keras.KerasTensor:
    x = layers.Dense(7 * 7 * 2, name="bottleneck")(layers.Flatten()(stem(x)))
    return layers.Flatten()(layers.Conv2D(4, 3)(layers.Reshape((7, 7, 2))(x)))


def _reshape_in_between(x: keras.KerasTensor) -> keras.KerasTensor:
    x = layers.Reshape((14 * 14, 4), name="cells")(stem(x))
    return layers.Flatten()(layers.Conv2D(4, 3)(layers.Reshape((14, 14, 4))(x)))


def _not_a_number() -> keras.Model:
    model = functional(lambda x: layers.Flatten()(stem(x)))
    model.set_weights([weight * np.nan for weight in model.get_weights()])
    return model


REFUSED: dict[str, tuple[Callable[[], keras.Model], str]] = {
    # model, the message after its path
    "Lambda": (
        lambda: functional(lambda x: layers.Flatten()(layers.Lambda(lambda maps: maps)(stem(x)))),
        "holds code (such as a Lambda layer), which is never run. Replace it by layers of Keras.",
    ),
    "custom layer": (
        _custom_layer,
        "needs the custom class 'Unknown', which Keras does not have. Replace it by layers of Keras.",
    ),
    "subclassed": (
        _subclassed,
        "is a subclassed model, or one that was never built: it holds no graph of layers to cut. Save a functional "
        "model, or a Sequential that begins with keras.Input.",
    ),
    "never built": (
        lambda: keras.Sequential([layers.Conv2D(4, 3), layers.Flatten()]),
        "is a subclassed model, or one that was never built",
    ),
    "two inputs": (
        _two_inputs,
        "must take one batch of images (N, H, W, C); it takes (None, 28, 28, 1), (None, 3). Save a model that takes "
        "images alone.",
    ),
    "vectors": (
        lambda: functional(layers.Dense(10), (784,)),
        "must take one batch of images (N, H, W, C); it takes (None, 784).",
    ),
    "no map": (
        lambda: functional(lambda x: layers.Dense(10)(layers.Flatten()(layers.Rescaling(1 / 255)(x)))),
        "has no feature map (N, h, w, F): none of its tensors with height and width depends on a weight. Use a model "
        "with convolutions.",
    ),
    "two branches": (
        lambda: functional(_two_branches),
        "does not end in one feature map: what it answers depends on more than its last one, of left (Conv2D). "
        "Choose where to cut with backbone.layer=NAME; its last maps are those of right, left.",
    ),
    "channels first": (
        lambda: functional(_channels_first, (1, 28, 28)),
        "is a channels-first model (N, C, H, W). Build it with data_format='channels_last' and save it again.",
    ),
    "Dense in between": (
        lambda: functional(_dense_in_between),
        "is not fully convolutional up to the cut: bottleneck (Dense) takes no image size but the model's own, "
        "28×28×1. Cut before it with backbone.layer=NAME, or replace it in the model.",
    ),
    "weights of the map's size": (
        lambda: functional(lambda x: layers.Flatten()(layers.PReLU(name="own")(stem(x)))),
        "is not fully convolutional up to the cut: own (PReLU) takes no image size but the model's own, 28×28×1; at "
        "42×42 px: Incompatible shapes: [14,14,4] vs. [1,21,21,4]. Cut before it with backbone.layer=stem, or replace",
    ),
    "Reshape in between": (
        lambda: functional(_reshape_in_between),
        "is not fully convolutional up to the cut: cells (Reshape) takes no image size but the model's own, 28×28×1.",
    ),
    "Resizing": (
        lambda: functional(lambda x: layers.Flatten()(stem(layers.Resizing(8, 8)(x)))),
        "is not fully convolutional up to the cut: its map is 4×4×4 for images 28×28×1 and 4×4×4 for images 56×84×1. "
        "Cut earlier with backbone.layer=NAME, or replace what fixes the size (Resizing, Reshape) in the model.",
    ),
    "three channels": (
        lambda: functional(lambda x: layers.Flatten()(stem(x)), (28, 28, 2)),
        "takes images (N, H, W, 2), and the dataset's are (N, H, W, 1). Use another dataset or another model.",
    ),
    "another function where the size is unknown": (
        lambda: functional(lambda x: layers.Flatten()(BrightensWhatItKnowsTheSizeOf()(stem(x)))),
        "gives another feature map when it is rebuilt for images of any size: at 28×28×1 they differ by 1, and",
    ),
    "weights that are no numbers": (
        _not_a_number,
        "has weights that are not finite numbers. Save a model from before its training diverged.",
    ),
    "fails where it runs": (
        lambda: functional(lambda x: layers.Flatten()(stem(x)), dtype="uint8"),
        "cannot be run on images of unknown size: Value passed to parameter 'input' has DataType uint8 not in list",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.filterwarnings("ignore:You are saving a model that has not yet been built")
def test_what_cannot_be_cut_is_refused_with_a_way_out(name: str, tmp_path: Path) -> None:
    make, message = REFUSED[name]
    path = saved(make(), tmp_path)
    with pytest.raises(ConfigError) as caught:
        FromModel(path=path).build(channels=1)
    assert str(caught.value).startswith(f"backbone.path={path}: {message}")


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        ("stm", "is not a layer of PATH. Did you mean stem?"),
        ("zzz", "is not a layer of PATH. model.summary(expand_nested=True) lists them."),
        ("logits", "gives (None, 10), which is not a feature map (N, h, w, F). Use a layer before it, or null for the "
         "last feature map."),
    ],
)  # fmt: skip
def test_a_layer_to_cut_after_has_to_give_a_map(layer: str, message: str, tmp_path: Path) -> None:
    path = saved(functional(lambda x: layers.Dense(10, name="logits")(layers.Flatten()(stem(x)))), tmp_path)
    with pytest.raises(ConfigError) as caught:
        FromModel(path=path, layer=layer).build(channels=1)
    assert str(caught.value) == f"backbone.layer={layer}: {message.replace('PATH', path)}"


def _rewrite(path: str, member: str, change: Callable[[bytes], bytes]) -> None:
    """Writes a member of a .keras file anew, with the right checksum."""
    original = Path(path).with_suffix(".original")
    shutil.move(path, original)
    with zipfile.ZipFile(original) as source, zipfile.ZipFile(path, "w") as target:
        for name in source.namelist():
            content = source.read(name)
            target.writestr(name, change(content) if name == member else content)


def _without_a_layer(weights: bytes) -> bytes:
    file = io.BytesIO(weights)
    with h5py.File(file, "a") as store:
        del store["layers/conv2d"]
    return file.getvalue()


def _flip_a_bit_of_a_weight(path: str) -> None:
    kernel = keras.saving.load_model(path).get_layer("last").kernel.numpy().tobytes()
    content = bytearray(Path(path).read_bytes())
    content[content.index(kernel)] ^= 1
    Path(path).write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_flip_a_bit_of_a_weight, "Bad CRC-32 for file 'model.weights.h5'"),
        (lambda path: _rewrite(path, "config.json", lambda text: text[:1]), "Expecting property name"),
        (lambda path: _rewrite(path, "model.weights.h5", lambda content: content[:900]), "Unable to"),
        (lambda path: _rewrite(path, "model.weights.h5", _without_a_layer), "objects could not be loaded"),
        (lambda path: zipfile.ZipFile(path, "w").close(), "There is no item named 'config.json'"),
    ],
    ids=["flipped bit", "cut configuration", "cut weights", "a layer less", "empty"],
)
def test_a_damaged_file_is_refused(damage: Callable[[str], None], message: str, tmp_path: Path) -> None:
    path = saved(sequential(), tmp_path)
    damage(path)
    with pytest.raises(ConfigError) as caught:
        FromModel(path=path).build(channels=1)
    beginning, _, reason = str(caught.value).partition(f" Keras {keras.__version__} can load: ")
    assert beginning == f"backbone.path={path}: is not a model that"
    assert message in reason
    assert reason.endswith("Save it again with model.save('NAME.keras').")


def test_a_home_directory_and_a_relative_path_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved(functional(residual), tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for path in ("~/my.keras", "my.keras"):
        assert FromModel(path=path).build(channels=1).count_params() == (9 * 1 * 4 + 4) + (9 * 4 * 4 + 4)


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Data:
    return source.load(Dataset(name="digits", version="1.0.0"), 0, tmp_path_factory.mktemp("cache"))


@pytest.mark.long
@pytest.mark.parametrize("trainable", [True, False])
def test_frozen_weights_and_moving_averages_stay_and_others_do_not(
    trainable: bool, tmp_path: Path, digits: Data
) -> None:
    users = sequential()
    users.get_layer("last").trainable = False  # Whatever the file says, the setting holds.
    backbone = FromModel(path=saved(users, tmp_path), trainable=trainable)
    model = build_model(backbone, GlobalAveragePool(), (8, 8, 1), 10, seed=0)
    extractor, head = model.get_layer("backbone"), model.get_layer("head")
    before = [weight.numpy() for weight in extractor.weights]
    head_before = head.get_weights()
    fit(model, digits, Training(epochs=1, batch_size=128, keep_weights=KeepWeights.last), lambda *_: None)
    changed = [not np.array_equal(now, then) for now, then in zip(extractor.weights, before, strict=True)]
    assert changed == [trainable] * len(before)
    assert not np.array_equal(head.get_weights()[0], head_before[0])


@pytest.mark.long
def test_a_size_that_the_model_cannot_take_is_refused_before_training(tmp_path: Path) -> None:
    backbone = FromModel(path=saved(functional(unet), tmp_path))
    facts = DatasetFacts("any", "1.0.0", (28, 28, 1), tuple("0123456789"))
    planned = SizePlan(backbone, GlobalAveragePool(), facts).sizes(SizeProbe(sizes=[27, 30]))
    assert [plan.verdict for plan in planned] == [Verdict.REFUSES, Verdict.NATIVE, Verdict.ADAPTS]
    assert planned[0].reason.startswith("backbone=from_model cannot take images of 27×27 px: ConcatOp : Dimension 1")
    with pytest.raises(ImageSizeError, match=r"27×27 px: .* Use images of another size \(dataset.image_size\), or cut"):
        build_model(backbone, GlobalAveragePool(), (27, 27, 1), 10, seed=0)
    valid = FromModel(path=saved(functional(lambda x: layers.Flatten()(layers.Conv2D(4, 9)(x))), tmp_path))
    with pytest.raises(ImageSizeError, match="leaves no feature map of a 8×8 px image"):
        valid.map_shape(valid.build(channels=1), (8, 8))


@pytest.mark.long
@pytest.mark.parametrize("head", [FlattenDense(), GlobalAveragePool()], ids=lambda head: head.name)
def test_the_size_probe_measures_what_was_planned(
    head: FlattenDense | GlobalAveragePool, tmp_path: Path, digits: Data
) -> None:
    backbone = FromModel(path=saved(functional(residual, (8, 8, 1)), tmp_path))
    probe = SizeProbe(sizes=[6, 8, 11], max_images=32)
    plan = SizePlan(backbone, head, digits.facts)
    model = build_model(backbone, head, digits.facts.image_shape, digits.facts.classes, seed=0)
    measured = measure_sizes(model, plan, probe, digits, np.zeros((360, 10)), np.zeros(360, np.int64))
    check_plan(head, plan.sizes(probe), measured)
    other = Verdict.ADAPTS if head.takes_any_size else Verdict.REFUSES
    assert [result.verdict for result in measured] == [other, Verdict.NATIVE, other]
    assert [result.map_size for result in measured] == [(3, 3), (4, 4), (6, 6)]


@pytest.mark.long
def test_a_saved_model_answers_as_the_trained_one(tmp_path: Path) -> None:
    backbone = FromModel(path=saved(nested(), tmp_path), trainable=False)
    model = build_model(backbone, GlobalAveragePool(), (28, 28, 1), 10, seed=0)
    model.save(tmp_path / "trained.keras")
    loaded = keras.saving.load_model(tmp_path / "trained.keras")
    assert loaded.get_layer("backbone").trainable_weights == []
    for size in ((28, 28), (21, 35)):
        images = pixels(2, *size, 1)
        assert relative_difference(loaded(images), model(images)) < 1e-6


@pytest.mark.long
def test_the_run_key_knows_the_content_of_the_file(tmp_path: Path, digits: Data) -> None:
    path = saved(functional(residual), tmp_path)
    config = typed("backbone=from_model", f"backbone.path={path}")
    plan = SizePlan(config.backbone, config.head, digits.facts)
    first = identify(config, digits, plan, sweep=None).key
    assert identify(config, digits, plan, sweep=None).key == first
    model = keras.saving.load_model(path)
    model.set_weights([weight + 1 for weight in model.get_weights()])
    model.save(path)
    assert identify(config, digits, plan, sweep=None).key != first


@pytest.mark.slow
@pytest.mark.parametrize("head", ["flatten_dense", "global_average_pool"])
def test_the_program_trains_a_users_model(head: str, tmp_path: Path) -> None:
    """As a user runs it; the recorded model gives the recorded logits."""
    saved(functional(residual, (8, 8, 1)), tmp_path)
    overrides = ["backbone=from_model", "backbone.path=my.keras", f"head={head}", "training.epochs=1"]
    result = run_program("pipeline.train", *overrides, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    uri = f"sqlite:///{tmp_path / 'outputs' / 'mlflow.db'}"
    mlflow.set_tracking_uri(uri)
    (run,) = MlflowClient(uri).search_runs(["1"])
    assert run.data.metrics["params/backbone"] == (9 * 1 * 4 + 4) + (9 * 4 * 4 + 4)
    served = mlflow.pyfunc.load_model(f"models:/{run.outputs.model_outputs[0].model_id}")
    images, _ = next(
        source.load(Dataset(name="digits", version="1.0.0"), 0, tmp_path / "cache").test(360).as_numpy_iterator()
    )
    recorded = pd.read_parquet(MlflowClient(uri).download_artifacts(run.info.run_id, "predictions.parquet"))
    assert np.allclose(served.predict(images), recorded.filter(like="logit_"), atol=1e-4)
