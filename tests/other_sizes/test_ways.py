"""Ways to other sizes: the same answers at the training size however they are run, each rule, each refusal."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import keras
import mlflow
import numpy as np
import pytest
import tensorflow as tf

from pipeline.common.condition import Mode
from pipeline.data import source
from pipeline.data.batches import Data
from pipeline.data.settings import Dataset
from pipeline.data.tf_data import resize
from pipeline.heads.adaptive_average import AdaptiveAveragePool
from pipeline.heads.attention import AttentionPool
from pipeline.heads.average import AveragePool
from pipeline.heads.base import Head
from pipeline.heads.flatten import FlattenDense
from pipeline.heads.global_pools import AverageMaxPool, GeneralizedMeanPool, GlobalAveragePool, GlobalMaxPool
from pipeline.heads.pointwise import ConvPool
from pipeline.heads.pyramid import SpatialPyramidPool
from pipeline.models.backbones.base import Backbone
from pipeline.models.backbones.pretrained import KerasApplication
from pipeline.models.backbones.small import ResNet, SmallFcn
from pipeline.models.build import build_model
from pipeline.models.predict import predict
from pipeline.models.scores import accuracy
from pipeline.other_sizes.measure import measure_sizes
from pipeline.other_sizes.parts import Collapse, NotRecognizedError
from pipeline.other_sizes.plan import SizePlan
from pipeline.other_sizes.settings import SizeProbe
from pipeline.other_sizes.take_apart import take_apart
from pipeline.other_sizes.ways import WAYS, ways_for
from pipeline.other_sizes.ways.base import ImageWay
from pipeline.other_sizes.ways.resize_input import ResizeInput
from pipeline.training.fit import fit
from pipeline.training.settings import Precision, Training

RESIZE_INPUT = "resize_input"
FLATTEN_WAYS = ["dense_to_conv", "dense_to_conv_mean_max", "resize_map", "interpolate_map"]
AVERAGE_WAYS = ["dense_to_conv", "dense_to_conv_mean_max", "global_pool"]
GLOBAL_WAYS = ["dense_to_conv", "dense_to_conv_mean_max"]

TAILS: list[tuple[Head, Collapse | None, list[str]]] = [
    (FlattenDense(), Collapse.flatten, FLATTEN_WAYS),
    (FlattenDense(hidden_units=[8, 6], dropout=0.3), Collapse.flatten, FLATTEN_WAYS),
    (AveragePool(), Collapse.average, AVERAGE_WAYS),
    (AveragePool(hidden_units=[8]), Collapse.average, AVERAGE_WAYS),
    (
        AveragePool(pool_size=[2, 2], strides=[1, 1]),
        Collapse.flatten,
        FLATTEN_WAYS,
    ),  # the pool belongs to the extractor
    (GlobalAveragePool(), Collapse.global_average, GLOBAL_WAYS),
    (GlobalAveragePool(keepdims=True, hidden_units=[8]), Collapse.global_average, GLOBAL_WAYS),
    # Class maps need no Dense layer after their mean, and none is made a convolution.
    (ConvPool(hidden_filters=[8]), Collapse.global_average, []),
    (ConvPool(hidden_filters=[8], class_relu=True, pool="full_window"), Collapse.average, ["global_pool"]),
    (GlobalMaxPool(), Collapse.global_max, GLOBAL_WAYS),
    # Powers and pyramids take any size as they are.
    *((head, None, []) for head in (GeneralizedMeanPool(), SpatialPyramidPool())),
    (AdaptiveAveragePool(), None, []),
    (AverageMaxPool(), None, []),
    (AttentionPool(), None, []),
]


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Data:
    """The digits, enlarged to 16×16 px so that the feature map has 4×4 cells."""
    return source.load(
        Dataset(name="digits", version="1.0.0", image_size=[16, 16]), 0, tmp_path_factory.mktemp("cache")
    )


@pytest.mark.long
@pytest.mark.parametrize(
    "backbone",
    [SmallFcn(), ResNet(), pytest.param(KerasApplication(), marks=pytest.mark.slow)],
    ids=lambda backbone: backbone.name,
)
@pytest.mark.parametrize(("head", "collapse", "names"), TAILS, ids=str)
def test_each_pair_has_its_ways_and_no_other(
    backbone: Backbone, head: Head, collapse: Collapse | None, names: list[str]
) -> None:
    side = 96 if isinstance(backbone, KerasApplication) else 16  # Its strides are 32 in all: a map of 3×3 cells.
    model = build_model(backbone, head, (side, side, 1), 10, seed=0)
    sizes = ((side, side), (side * 3 // 2, side * 2 - 1))
    images, larger = (np.random.default_rng(0).integers(0, 256, (6, *size, 1), np.uint8) for size in sizes)
    expected = model(images, training=False).numpy()
    resizing = ResizeInput().convert(model, None, (side, side))
    assert np.array_equal(resizing(images), expected)
    assert resizing(larger).shape == (6, 10)
    if collapse is None:
        with pytest.raises(NotRecognizedError, match="could not be recognised|give a map of shape"):
            take_apart(model, (side, side))
        return
    parts = take_apart(model, (side, side))
    assert parts.collapse is collapse
    assert [way.name for way in ways_for(parts)] == [RESIZE_INPUT, *names]
    for way in ways_for(parts)[1:]:
        converted = way.convert(model, parts, (side, side))
        assert converted.input_shape == (None, None, None, 1)
        assert converted(images, training=False).numpy() == pytest.approx(expected, abs=1e-5)
        assert np.isfinite(converted(larger, training=False)).all()
        assert converted.count_params() == model.count_params()


@pytest.mark.slow
@pytest.mark.parametrize("precision", [Precision.mixed_bfloat16, Precision.mixed_float16])
@pytest.mark.parametrize(
    "head", [FlattenDense(), AveragePool(dropout=0.3), GlobalAveragePool(), ConvPool(pool="full_window")], ids=str
)
def test_converted_models_answer_the_same_in_half_precision(
    head: Head, precision: Precision, in_precision: Callable[[Precision], None], tmp_path: Path
) -> None:
    """Converted as the run does, in its precision, and as `pipeline.convert` does, in float32."""
    in_precision(precision)
    model = build_model(SmallFcn(), head, (112, 112, 1), 10, seed=0)  # A map of 28×28 cells.
    model.save(tmp_path / "trained.keras")
    images = np.random.default_rng(0).integers(0, 256, (4, 112, 112, 1), np.uint8)
    expected = model(images, training=False).numpy()
    in_precision(Precision.float32)
    loaded = keras.saving.load_model(tmp_path / "trained.keras", safe_mode=True)
    for original, in_which in ((model, precision), (loaded, Precision.float32)):
        in_precision(in_which)
        parts = take_apart(original, (112, 112))
        for way in ways_for(parts):
            converted = way.convert(original, parts, (112, 112))
            converted.save(tmp_path / "converted.keras")
            again = keras.saving.load_model(tmp_path / "converted.keras", safe_mode=True)
            # The map is in half precision and the same; what follows is in float32, where terms round to 6e-8.
            assert again(images, training=False).numpy() == pytest.approx(expected, abs=1e-5), way.name
            assert again.output.dtype == "float32"


def test_every_way_is_explained_and_used() -> None:
    assert {way.name for way in WAYS} == {RESIZE_INPUT, *FLATTEN_WAYS, *AVERAGE_WAYS, *GLOBAL_WAYS}
    assert all(way.rule and (way.source or isinstance(way, ImageWay)) for way in WAYS)
    assert len({way.color for way in WAYS}) == len(WAYS)  # Told apart in charts.


@pytest.fixture(
    scope="module",
    params=[
        FlattenDense(hidden_units=[16]),
        pytest.param(AveragePool(), marks=pytest.mark.slow),
        GlobalAveragePool(),
    ],
    ids=lambda head: head.name,
)
def head(request: pytest.FixtureRequest) -> Head:
    return request.param


@pytest.fixture(scope="module")
def trained(head: Head, digits: Data) -> keras.Model:
    model = build_model(SmallFcn(), head, (16, 16, 1), 10, seed=0)
    fit(model, digits, Training(epochs=2, batch_size=32), lambda *_: None)
    return model


@pytest.mark.slow
def test_answers_on_the_test_split_are_the_same_however_a_converted_model_is_run(
    digits: Data, trained: keras.Model, tmp_path: Path
) -> None:
    """Eagerly, compiled for unknown sizes, saved and loaded in safe mode, and by MLflow."""
    expected, labels = predict(trained, digits.test(60))
    assert expected.shape == (360, 10)
    assert accuracy(expected, labels) > 0.5
    images = np.concatenate([batch for batch, _ in digits.test(60).as_numpy_iterator()])
    other = np.zeros((2, 24, 19, 1), np.uint8)
    parts = take_apart(trained, (16, 16))
    converted = {way.name: way.convert(trained, parts, (16, 16)) for way in ways_for(parts)}
    for name, model in converted.items():
        model.save(tmp_path / f"{name}.keras")
        loaded = keras.saving.load_model(tmp_path / f"{name}.keras", safe_mode=True)
        compiled = tf.function(
            lambda images, loaded=loaded: loaded(images, training=False),
            input_signature=[tf.TensorSpec((None, None, None, 1), tf.uint8)],
        )
        signature = mlflow.models.infer_signature(images[:1], expected[:1])
        mlflow.keras.save_model(loaded, str(tmp_path / name), signature=signature, pip_requirements=[])
        served = mlflow.pyfunc.load_model(str(tmp_path / name))
        # Called as users do, without training=False: nothing may learn or drop.
        for run in (model, compiled, served.predict):
            answers = [np.asarray(run(images[start : start + 60])) for start in range(0, 360, 60)]
            # Rounding is relative: logits of 10 in float32 are known to about 1e-6 each addend.
            assert np.abs(np.concatenate(answers) - expected).max() < 1e-5 * np.abs(expected).max(), name
        assert np.asarray(compiled(other)) == pytest.approx(np.asarray(model(other)), abs=1e-5)


def test_dense_to_conv_averages_the_answers_at_all_positions() -> None:
    """On a 3×4 map, a model trained on 2×2 has 2×3 positions."""
    images = keras.Input((2, 2, 1))
    dense = keras.layers.Dense(2)
    model = keras.Model(images, dense(keras.layers.Flatten()(images)))
    dense.set_weights([np.arange(8.0).reshape(4, 2), np.array([0.5, -0.5])])
    parts = take_apart(model, (2, 2))
    mean, mean_max = (way.convert(model, parts, (2, 2)) for way in ways_for(parts)[1:3])
    feature_map = np.random.default_rng(0).random((1, 3, 4, 1), np.float32)
    answers = np.array(
        [
            model(feature_map[:, row : row + 2, column : column + 2])[0]
            for row, column in itertools.product(range(2), range(3))
        ]
    )
    assert mean(feature_map)[0].numpy() == pytest.approx(answers.mean(axis=0), abs=1e-6)
    assert mean_max(feature_map)[0].numpy() == pytest.approx((answers.mean(axis=0) + answers.max(axis=0)) / 2, abs=1e-6)


@pytest.mark.long
def test_an_image_smaller_than_the_window_is_an_error_and_not_a_number() -> None:
    for head in (FlattenDense(), AveragePool(), GlobalAveragePool()):
        model = build_model(SmallFcn(), head, (16, 16, 1), 10, seed=0)
        parts = take_apart(model, (16, 16))
        way = next(way for way in ways_for(parts) if way.name == "dense_to_conv")
        converted = way.convert(model, parts, (16, 16))
        compiled = tf.function(converted, input_signature=[tf.TensorSpec((None, None, None, 1), tf.uint8)])
        for side, run in itertools.product((12, 8), (converted, compiled)):  # maps of 3×3 and 2×2 cells
            with pytest.raises(tf.errors.InvalidArgumentError):
                run(np.ones((1, side, side, 1), np.uint8))
        assert way.refusal((4, 4), (3, 4)) == "the 4×4 window of the trained weights does not fit into the 3×4 map"
        assert way.refusal((4, 4), (4, 9)) is None


def test_a_whole_window_that_pools_the_whole_map_in_any_dress_is_recognised() -> None:
    layers = keras.layers
    inner = keras.Sequential([layers.Input((8, 8, 3)), layers.Conv2D(4, 3, padding="same"), layers.ReLU()])
    sequential = keras.Sequential([layers.Input((8, 8, 3)), inner, layers.AveragePooling2D(8), layers.Flatten()])
    sequential.add(keras.Sequential([layers.Dense(5, activation="relu"), layers.BatchNormalization(), layers.Dense(2)]))
    parts = take_apart(sequential, (8, 8))
    assert (parts.collapse, parts.map_size) == (Collapse.average, (8, 8))
    assert [type(layer).__name__ for layer in parts.dense] == ["Dense", "BatchNormalization", "Dense"]
    images = np.random.default_rng(0).random((3, 8, 8, 3), np.float32)
    expected = sequential(images).numpy()
    for way in ways_for(parts):
        assert way.convert(sequential, parts, (8, 8))(images).numpy() == pytest.approx(expected, abs=1e-6)


def _two_ends() -> keras.Model:
    images = keras.Input((8, 8, 1))
    flat = keras.layers.Flatten()(images)
    return keras.Model(images, keras.layers.Add()([keras.layers.Dense(2)(flat), keras.layers.Dense(2)(flat)]))


def _fixed_by_a_reshape() -> keras.Model:
    images = keras.Input((8, 8, 1))
    rows = keras.layers.LayerNormalization()(keras.layers.Reshape((64, 1))(images))
    x = keras.layers.Flatten()(keras.layers.Reshape((8, 8, 1))(rows))
    return keras.Model(images, keras.layers.Dense(2)(x))


def _fixed_by_a_dense_layer() -> keras.Model:
    images = keras.Input((8, 8, 1))
    x = keras.layers.Dense(64)(keras.layers.Flatten()(images))
    x = keras.layers.Conv2D(2, 3)(keras.layers.Reshape((8, 8, 1))(x))
    return keras.Model(images, keras.layers.Dense(2)(keras.layers.Flatten()(x)))


class _Subclassed(keras.Model):
    def call(self, images: tf.Tensor) -> tf.Tensor:
        return images


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (_two_ends, r"add\w* \(Add\) is not a layer that gives the outputs"),
        (_fixed_by_a_reshape, r"before the Flatten is not fully convolutional: .* shape \(None, 8, 8, 1\)"),
        (_fixed_by_a_dense_layer, r"before the Flatten is not fully convolutional: .* shape \(None, 6, 6, 2\)"),
        (_Subclassed, "computes by code of its own"),
        (
            lambda: build_model(SmallFcn(), GeneralizedMeanPool(), (8, 8, 1), 3, 0),
            r"is neither Flatten nor pooling over the whole map",
        ),
    ],
    ids=["two ends", "reshape", "dense inside", "subclassed", "powers"],
)
def test_what_cannot_be_recognised_is_named(model: type[keras.Model], reason: str) -> None:
    with pytest.raises(NotRecognizedError, match=reason):
        take_apart(model(), (8, 8))


@pytest.mark.long
def test_the_probe_measures_what_a_converted_model_does(digits: Data, head: Head, trained: keras.Model) -> None:
    """Accuracy of each way at each size, against the whole converted model on images made by hand."""
    logits, labels = predict(trained, digits.test(60))
    probe = SizeProbe(sizes=[3, 12, 24], max_images=120)
    plan = SizePlan(SmallFcn(), head, digits.facts)
    by_height = {result.size[0]: result for result in measure_sizes(trained, plan, probe, digits, logits, labels)}
    parts = take_apart(trained, (16, 16))
    converted = {way.name: way.convert(trained, parts, (16, 16)) for way in ways_for(parts)}
    images = np.concatenate([batch for batch, _ in digits.test(60, 120).as_numpy_iterator()])
    for height, result in by_height.items():
        assert list(result.ways) == [way.name for way in ways_for(parts)]
        for name, predictions in result.ways.items():
            # 3 px leave no map; 12 px leave 3×3 cells, less than the 4×4 window of dense_to_conv.
            refused = name != RESIZE_INPUT and (height == 3 or (height == 12 and name.startswith("dense_to_conv")))
            assert (Mode.RESIZE not in predictions.classes) == np.isnan(predictions.accuracy(Mode.CANVAS)) == refused
            if not refused:
                said = converted[name](resize(images, (height, height)), training=False).numpy().argmax(axis=1)
                assert np.mean(said == predictions.classes[Mode.RESIZE]) > 0.99  # Rounding may turn a tie.
    one_way = SizeProbe(sizes=[24], ways=[RESIZE_INPUT], max_images=50)
    only = measure_sizes(trained, plan, one_way, digits, logits, labels)
    assert [list(result.ways) for result in only] == [[RESIZE_INPUT], [RESIZE_INPUT]]


def test_batch_norm_on_the_flattened_map_leaves_no_convolution() -> None:
    layers = keras.layers
    cnn = [layers.Input((8, 8, 1)), layers.Conv2D(3, 3, name="conv"), layers.Flatten()]
    before = keras.Sequential([*cnn, layers.BatchNormalization(), layers.Dense(2)])
    assert [way.name for way in ways_for(take_apart(before, (8, 8)))] == [
        *(RESIZE_INPUT, "resize_map", "interpolate_map")
    ]
    after = keras.Sequential([*cnn, layers.Dense(4), layers.BatchNormalization(axis=1), layers.Dense(2)])
    images = np.random.default_rng(0).random((5, 8, 8, 1), np.float32)
    after.layers[-2].set_weights([np.arange(1, 5, dtype=np.float32)] * 4)
    parts = take_apart(after, (8, 8))
    assert [way.name for way in ways_for(parts)] == [RESIZE_INPUT, *FLATTEN_WAYS]
    for way in ways_for(parts):
        np.testing.assert_allclose(way.convert(after, parts, (8, 8))(images), after(images), rtol=1e-4, atol=1e-5)


def test_a_model_without_dense_layers_is_recognised() -> None:
    """As Network in Network and All Convolutional Net are: the mean of class maps, and softmax."""
    layers = keras.layers
    for pools, ways in (
        ([layers.GlobalAveragePooling2D()], []),
        ([layers.AveragePooling2D(6), layers.Flatten()], ["global_pool"]),
    ):
        model = keras.Sequential([layers.Input((8, 8, 1)), layers.Conv2D(3, 3), *pools, layers.Softmax()])
        parts = take_apart(model, (8, 8))
        assert [type(layer).__name__ for layer in parts.dense] == ["Softmax"]
        assert not parts.has_dense
        assert [way.name for way in ways_for(parts)] == [RESIZE_INPUT, *ways]
        images = np.random.default_rng(0).random((5, 8, 8, 1), np.float32)
        for way in ways_for(parts):
            assert way.convert(model, parts, (8, 8))(images).numpy() == pytest.approx(model(images).numpy(), abs=1e-6)


def test_an_activation_that_is_used_twice_is_recognised() -> None:
    images, relu = keras.Input((8, 8, 1)), keras.layers.ReLU()
    vector = keras.layers.Flatten()(relu(keras.layers.Conv2D(3, 3)(images)))
    model = keras.Model(images, keras.layers.Dense(2)(relu(keras.layers.Dense(4)(vector))))
    parts = take_apart(model, (8, 8))
    assert [type(layer).__name__ for layer in parts.dense] == ["Dense", "ReLU", "Dense"]
    assert parts.map_size == (6, 6)
