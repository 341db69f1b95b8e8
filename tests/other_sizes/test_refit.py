"""The last Dense layer fitted again at other sizes: where a model is cut, what is fitted, on which images."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import keras
import mlflow
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from sklearn.linear_model import LogisticRegression

from pipeline.common.condition import AS_IS, Condition, Mode
from pipeline.common.errors import UserError
from pipeline.config import ConvertConfig, to_typed
from pipeline.convert import convert
from pipeline.data import source
from pipeline.data.batches import Data
from pipeline.data.settings import Dataset
from pipeline.data.splits import DecodedSplit, ImageSplit
from pipeline.heads import HEADS
from pipeline.heads.average import AveragePool
from pipeline.heads.base import Head
from pipeline.heads.flatten import FlattenDense
from pipeline.heads.global_pools import GlobalAveragePool
from pipeline.heads.pointwise import ConvPool
from pipeline.models.backbones.small import SmallFcn
from pipeline.models.build import build_model
from pipeline.models.predict import compiled, predict
from pipeline.other_sizes.made_maps import MadeMaps
from pipeline.other_sizes.measure import measure_sizes
from pipeline.other_sizes.parts import NotRecognizedError
from pipeline.other_sizes.plan import SizePlan
from pipeline.other_sizes.refit import (
    MOST_NUMBERS,
    Classifier,
    cut_before_last_dense,
    drawn,
    fit_classifier,
)
from pipeline.other_sizes.refit_sizes import RefittedHeads
from pipeline.other_sizes.settings import SizeProbe
from pipeline.other_sizes.ways import ALL_WAYS, REFITS, WAYS
from tests.conftest import composed
from tests.program.forked import run_forked

NAMES = ["refit_dense", "refit_dense_all"]


def _nothing(features: int, classes: int) -> Classifier:
    return Classifier(np.zeros((features, classes), np.float32), np.zeros(classes, np.float32))


def test_ways_that_fit_weights_are_told_apart_and_used_where_they_are_named() -> None:
    assert [way.name for way in REFITS] == NAMES
    assert all(way.rule and way.source for way in REFITS)
    assert len({way.color for way in ALL_WAYS}) == len({way.marker for way in ALL_WAYS}) == len(ALL_WAYS)
    assert not set(NAMES) & {way.name for way in WAYS}
    assert SizeProbe(ways=NAMES).refit_images == 10_000


@pytest.mark.parametrize("classes", [2, 4])
def test_the_classifier_has_the_logits_of_the_regression(classes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of features as they come, which have means of 3 and deviations of 0, 1, 2, …, and not of standardised ones."""
    generator = np.random.default_rng(0)
    labels = generator.integers(0, classes, 200)
    features = (3 + generator.normal(size=(200, 6)) * np.arange(6)).astype(np.float32)
    fitted: list[tuple[LogisticRegression, np.ndarray]] = []
    fit = LogisticRegression.fit

    def watched(regression: LogisticRegression, standardised: np.ndarray, labels: np.ndarray) -> LogisticRegression:
        fitted.append((regression, standardised))
        return fit(regression, standardised, labels)

    monkeypatch.setattr(LogisticRegression, "fit", watched)
    found = fit_classifier(features, labels, _nothing(6, classes))
    ((regression, standardised),) = fitted
    assert standardised[:, 1:].mean(axis=0) == pytest.approx(np.zeros(5), abs=1e-5)
    assert standardised[:, 1:].std(axis=0) == pytest.approx(np.ones(5), abs=1e-5)
    logits = features @ found.kernel + found.bias
    decision = regression.decision_function(standardised)
    if classes == 2:  # One number: the second class's logit minus the first one's.
        assert logits[:, 1] - logits[:, 0] == pytest.approx(decision, abs=1e-5)
    else:
        assert logits == pytest.approx(decision, abs=1e-5)
    assert found.kernel[0] == pytest.approx(np.zeros(classes), abs=1e-6)  # A constant feature tells nothing.


def test_the_minimum_does_not_depend_on_where_the_fit_begins() -> None:
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 3, 300)
    features = (generator.normal(size=(300, 4)) + labels[:, np.newaxis]).astype(np.float32)
    start = Classifier(generator.normal(size=(4, 3)).astype(np.float32), np.array([5, 0, -5], np.float32))
    logits = [
        features @ found.kernel + found.bias
        for found in (fit_classifier(features, labels, begin) for begin in (start, _nothing(4, 3)))
    ]
    # Logits are known up to a number that all classes share.
    first, second = (found - found.mean(axis=1, keepdims=True) for found in logits)
    assert first == pytest.approx(second, abs=0.02)


def test_classes_that_can_be_separated_are_and_one_without_images_is_never_predicted() -> None:
    labels = np.repeat([0, 1, 3], 20)
    features = np.eye(4, dtype=np.float32)[labels] * 7 + 100
    for classes in (4, 5):
        found = fit_classifier(features, labels, _nothing(4, classes))
        logits = features @ found.kernel + found.bias
        assert np.array_equal(logits.argmax(axis=1), labels)
        # The mean of the others minus 30.
        assert logits[:, 2] == pytest.approx(logits[:, [0, 1, 3]].mean(axis=1) - 30, abs=1e-3)
    alone = fit_classifier(features[:20], labels[:20], _nothing(4, 3))
    assert np.array_equal((features[:20] @ alone.kernel + alone.bias).argmax(axis=1), labels[:20])


def test_images_are_drawn_of_every_class_its_share() -> None:
    labels = np.repeat([0, 1, 2], [60, 30, 10])
    assert np.bincount(labels[drawn(labels, 20, seed=0)]).tolist() == [12, 6, 2]
    assert not np.array_equal(drawn(labels, 20, seed=0), drawn(labels, 20, seed=1))
    for most in (None, 98, 100):  # 98 would leave out fewer than one of each class.
        assert np.array_equal(drawn(labels, most, seed=0), np.arange(100))


@pytest.mark.long
@pytest.mark.parametrize(
    "head",
    [
        *(option() for option in HEADS),
        FlattenDense(hidden_units=[8], dropout=0.3),
        AveragePool(hidden_units=[8]),
        AveragePool(pool_size=[2, 2], strides=[1, 1]),
        GlobalAveragePool(keepdims=True),
        ConvPool(hidden_filters=[8], pool="full_window", dropout=0.3),
    ],
    ids=str,
)
def test_every_head_is_cut_and_put_together_again(head: Head, tmp_path: Path) -> None:
    trained = head.build((4, 4, 6), 3)
    for weight in trained.weights:  # A bias of zeros could be lost without a trace.
        weight.assign(np.abs(np.random.default_rng(0).normal(size=weight.shape)))
    cut = cut_before_last_dense(trained, (4, 4))
    maps, larger = (np.random.default_rng(0).random((5, side, side + 1, 6), np.float32) for side in (4, 7))
    maps = maps[:, :, :4]
    again = cut.model(cut.classifier)
    assert again(maps).numpy() == pytest.approx(trained(maps).numpy(), rel=1e-5, abs=1e-5)
    assert cut.features(larger).shape == (5, len(cut.classifier.kernel))
    assert np.isfinite(again(larger)).all()
    again.save(tmp_path / "refitted.keras")
    loaded = keras.saving.load_model(tmp_path / "refitted.keras", safe_mode=True)
    assert np.array_equal(loaded(larger), again(larger))


def test_softmax_after_the_logits_stays() -> None:
    layers = keras.layers
    for ends in ([layers.Dense(3, "softmax")], [layers.Dense(3), layers.Softmax()]):
        model = keras.Sequential([layers.Input((8, 8, 1)), layers.Conv2D(4, 3), layers.GlobalMaxPooling2D(), *ends])
        cut = cut_before_last_dense(model, (8, 8))
        images = np.random.default_rng(0).random((4, 8, 8, 1), np.float32)
        assert cut.model(cut.classifier)(images).numpy() == pytest.approx(model(images).numpy(), abs=1e-6)


@pytest.mark.parametrize(
    ("ends", "reason"),
    [
        ([keras.layers.Flatten(), keras.layers.Dense(3, "sigmoid")], "makes sigmoid of its numbers: they are neither"),
        ([keras.layers.Flatten(), keras.layers.Dense(1)], "It has one output"),
        ([keras.layers.GlobalMaxPooling2D()], r"\(GlobalMaxPooling2D\) is not a Dense layer, or the mean of 1×1"),
        ([keras.layers.Conv2D(3, 1, activation="relu"), keras.layers.GlobalAveragePooling2D()], "before the mean"),
    ],
    ids=["sigmoid", "one output", "maximum", "relu"],
)
def test_what_cannot_be_refitted_is_told(ends: list[keras.layers.Layer], reason: str) -> None:
    model = keras.Sequential([keras.layers.Input((8, 8, 1)), keras.layers.Conv2D(4, 3, padding="same"), *ends])
    with pytest.raises(NotRecognizedError, match=reason):
        cut_before_last_dense(model, (8, 8))


def test_features_whose_number_depends_on_the_size_are_refused() -> None:
    images = keras.Input((8, 8, 1))
    both = keras.layers.Concatenate()([keras.layers.Flatten()(images), keras.layers.GlobalMaxPooling2D()(images)])
    with pytest.raises(NotRecognizedError, match="many features it has depends on the size of the image"):
        cut_before_last_dense(keras.Model(images, keras.layers.Dense(3)(both)), (8, 8))


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Data:
    return source.load(Dataset(name="digits", version="1.0.0"), 0, tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def untrained() -> keras.Model:
    return build_model(SmallFcn(), GlobalAveragePool(), (8, 8, 1), 10, seed=0)


class _Closed(ImageSplit):
    """A split that no image may be read of."""

    def __init__(self, split: ImageSplit) -> None:
        self.name, self.digest, self.size, self.labels = split.name, split.digest, split.size, split.labels

    def in_order(self, indices: np.ndarray, batch_size: int) -> tf.data.Dataset:
        raise AssertionError("an image was read")

    def epochs(self, indices: np.ndarray, batch_size: int, numbers: range, seed: int) -> tf.data.Dataset:
        raise AssertionError("an image was read")


def _refitted(model: keras.Model, data: Data, probe: SizeProbe, head: Head) -> RefittedHeads:
    plan = SizePlan(SmallFcn(), head, data.facts)
    cut = cut_before_last_dense(model.get_layer("head"), plan.native_map)
    return RefittedHeads(cut, REFITS, compiled(model.get_layer("backbone")), data, plan, probe, None)


@pytest.mark.long
def test_fits_look_at_training_images_alone(digits: Data, untrained: keras.Model) -> None:
    """Validation images that are noise with wrong labels, and test images that cannot be read, change nothing."""
    assert isinstance(digits.train_split, DecodedSplit)
    images, labels = digits.train_split.images.copy(), digits.train_split.labels.copy()
    images[digits.validation_indices] = np.random.default_rng(0).integers(0, 256, images[0].shape, np.uint8)
    labels[digits.validation_indices] = 0
    poisoned = dataclasses.replace(
        digits,
        train_split=DecodedSplit("train", digits.train_split.digest, images, labels),
        test_split=_Closed(digits.test_split),
    )
    probe = SizeProbe(sizes=[6, 12], refit_images=200)
    maps = np.random.default_rng(0).random((50, 3, 3, 64), np.float32)
    answers = [
        {
            (name, mode): np.asarray(head(maps))
            for name, heads in refitted.at((12, 12)).items()
            for mode, head in heads.items()
        }
        for refitted in (_refitted(untrained, data, probe, GlobalAveragePool()) for data in (digits, poisoned))
    ]
    assert list(answers[0]) == [(name, mode) for name in NAMES for mode in Mode]
    for key, expected in answers[0].items():
        assert np.array_equal(answers[1][key], expected), key
    assert len({logits.tobytes() for logits in answers[0].values()}) == 4  # Each is fitted on other images.


@pytest.mark.long
def test_the_probe_measures_refitted_heads(
    digits: Data, untrained: keras.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against fits made by hand on the same training images; random convolutions are features enough."""
    plan = SizePlan(SmallFcn(), GlobalAveragePool(), digits.facts)
    logits, labels = predict(untrained, digits.test(100))
    probe = SizeProbe(sizes=[3, 8, 12], ways=["resize_input", *NAMES])
    tiny, native, larger = measure_sizes(untrained, plan, probe, digits, logits, labels)
    cut = cut_before_last_dense(untrained.get_layer("head"), plan.native_map)
    extract, features_of = compiled(untrained.get_layer("backbone")), compiled(cut.features)

    def features(split: ImageSplit, indices: np.ndarray, side: int) -> np.ndarray:
        maps = MadeMaps(split, indices, plan, probe, None).of({AS_IS: extract}, (side, side))
        return np.concatenate([features_of(found).numpy() for _, mode, found in maps if mode is Mode.RESIZE])

    train = {side: features(digits.train_split, digits.train_indices, side) for side in (8, 12)}
    test = {side: features(digits.test_split, np.arange(360), side) for side in (8, 12)}
    of_training = digits.train_split.labels[digits.train_indices]
    one = fit_classifier(train[12], of_training, cut.classifier)
    both = fit_classifier(np.concatenate([train[8], train[12]]), np.tile(of_training, 2), cut.classifier)

    def accuracy(classifier: Classifier, side: int) -> float:
        return float(np.mean((test[side] @ classifier.kernel + classifier.bias).argmax(axis=1) == labels))

    assert list(larger.ways) == ["resize_input", *NAMES]
    assert larger.ways["refit_dense"].accuracy(Mode.RESIZE) == pytest.approx(accuracy(one, 12), abs=1 / 360)
    assert larger.ways["refit_dense_all"].accuracy(Mode.RESIZE) == pytest.approx(accuracy(both, 12), abs=1 / 360)
    assert native.ways["refit_dense_all"].accuracy(Mode.RESIZE) == pytest.approx(accuracy(both, 8), abs=1 / 360)
    assert native.ways["refit_dense"] == native.as_is  # Fitted at the size of training it is already.
    assert accuracy(one, 12) > 0.8 > 0.3 > larger.as_is.accuracy(Mode.RESIZE)
    assert all(
        np.isnan(tiny.ways[name].accuracy(mode)) for name in NAMES for mode in Mode
    )  # The backbone refuses 3 px.


def test_a_head_that_cannot_be_cut_goes_without(digits: Data) -> None:
    head = ConvPool(class_relu=True)
    model = build_model(SmallFcn(), head, (8, 8, 1), 10, seed=0)
    plan = SizePlan(SmallFcn(), head, digits.facts)
    probe = SizeProbe(sizes=[8], ways=NAMES)
    (native,) = measure_sizes(model, plan, probe, digits, np.zeros((360, 10)), np.zeros(360))
    assert native.ways == {}


@pytest.mark.long
def test_a_size_that_leaves_no_features_is_refused(tmp_path: Path) -> None:
    """The window of 2×2 cells does not fit into the map of 4 px, one cell; nor are there maps of 3 px."""
    larger = source.load(Dataset(name="digits", version="1.0.0", image_size=[16, 16]), 0, tmp_path)
    head = AveragePool(pool_size=[2, 2], strides=[1, 1])
    model = build_model(SmallFcn(), head, (16, 16, 1), 10, seed=0)
    refitted = _refitted(model, larger, SizeProbe(sizes=[3, 4, 12], refit_images=100), head)
    assert [list(refitted.at((side, side))) for side in (3, 4, 12)] == [[], [], NAMES]


def test_the_features_in_memory_are_bounded(
    digits: Data, untrained: keras.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """64 features: room for 100 images at one size, and for 33 at each of three."""
    counts: list[int] = []

    def counted(features: np.ndarray, labels: np.ndarray, start: Classifier) -> Classifier:
        assert len(features) == len(labels)
        counts.append(len(features))
        return start

    assert MOST_NUMBERS == 2**25
    monkeypatch.setattr("pipeline.other_sizes.refit_sizes.MOST_NUMBERS", 64 * 100)
    monkeypatch.setattr("pipeline.other_sizes.refit_sizes.fit_classifier", counted)
    _refitted(untrained, digits, SizeProbe(sizes=[6, 8, 12]), GlobalAveragePool())
    assert counts == [100, 100, 100, 100, 99, 99]  # 6 px and 12 px in two modes; all sizes in two modes.


@pytest.fixture(scope="module")
def grays(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty images of each of three levels of gray, which random convolutions and a mean tell apart."""
    folder = tmp_path_factory.mktemp("grays")
    generator = np.random.default_rng(0)
    for label, name in enumerate(("dark", "gray", "light")):
        (folder / name).mkdir()
        for index in range(20):
            pixels = np.clip(generator.normal(40 + 80 * label, 5, (12, 12, 1)), 0, 255)
            keras.utils.save_img(folder / name / f"{index}.png", pixels, scale=False)
    return folder


def _own_model(path: Path, *ends: keras.layers.Layer) -> keras.Model:
    layers = keras.layers
    stack = [layers.Input((8, 8, 1)), layers.Rescaling(1 / 255), layers.Conv2D(4, 3, activation="relu"), *ends]
    model = keras.Sequential(stack)
    model.save(path)
    return model


def _convert(*overrides: str) -> Path | None:
    return convert(to_typed(composed(*overrides, command="convert"), ConvertConfig))


@pytest.mark.long
@pytest.mark.parametrize("way", NAMES)
def test_a_users_own_model_is_refitted_and_what_it_changes_is_said(
    way: str, grays: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ends = keras.layers.AveragePooling2D(6), keras.layers.Flatten(), keras.layers.Dense(3, "softmax")
    original = _own_model(tmp_path / "own.keras", *ends)
    output = _convert(
        *(f"model={tmp_path / 'own.keras'}", f"way={way}", "sizes=[16]", f"images={grays}"),
        f"output={tmp_path / 'any.keras'}",
    )
    assert output is not None
    said = capsys.readouterr().out
    at = {"refit_dense": "16×16", "refit_dense_all": "8×8, 16×16"}[way]
    assert f"Fitted on 48 images of {grays} at {at} px" in said  # 12 of 60 are held out: 4 of each class.
    assert "At 16×16 px on 12 held-out images: accuracy 1.000 after; the original refuses that size" in said
    assert re.search(r"At 8×8 px, the size of training, on 12 held-out images: accuracy 0\.\d+ before, ", said)
    assert "Same answers" not in said
    assert "It is another model than the original, also at 8×8 px." in said
    loaded = keras.saving.load_model(output, safe_mode=True)
    levels = np.array([40, 120, 200]).reshape(3, 1, 1, 1)
    assert loaded(np.ones((1, 16, 16, 1)) * levels).numpy().argmax(axis=1).tolist() == [0, 1, 2]
    assert loaded(np.zeros((1, 30, 20, 1))).numpy().sum() == pytest.approx(1)  # A softmax, as the original's.
    kernels = [model.get_layer(original.layers[1].name).get_weights()[0] for model in (original, loaded)]
    assert np.array_equal(*kernels)  # The convolution stays.


@pytest.mark.long
def test_a_refit_that_cannot_be_is_refused_with_one_message(grays: Path, tmp_path: Path) -> None:
    for name, ends in {
        "own": (keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(3)),
        "two": (keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(2)),
        "sigmoid": (keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(3, "sigmoid")),
    }.items():
        _own_model(tmp_path / f"{name}.keras", *ends)
    (tmp_path / "empty").mkdir()
    refit, images, sizes = "way=refit_dense", f"images={grays}", "sizes=[16]"
    for overrides, message in (
        (("model=own.keras", refit, images), "sizes=None: way=refit_dense needs one height, from 1 to 65,535 px"),
        (("model=own.keras", refit, images, "sizes=[12,16]"), "sizes=[12, 16]: way=refit_dense needs one height"),
        (("model=own.keras", refit, sizes), "images=None: way=refit_dense needs training images"),
        (("model=own.keras", "way=resize_input", sizes), "sizes=[16]: is for way=refit_dense or refit_dense_all alone"),
        (("model=two.keras", refit, sizes, images), "has 3 classes (dark, gray, light), and the model has 2"),
        (("model=sigmoid.keras", refit, sizes, images), "way=refit_dense: is not for this model. dense"),
        (("model=own.keras", refit, sizes, "images=/no/such"), "images=/no/such: there is no such directory"),
        (("model=own.keras", refit, sizes, f"images={tmp_path / 'empty'}"), "each of two images at least; there"),
        (
            ("model=own.keras", refit, "sizes=[2]", images),
            "sizes=2×2: no feature map is left",
        ),  # No map is left: TensorFlow makes zeros or NaN.
    ):
        before = sorted(tmp_path.iterdir())
        with pytest.raises(UserError) as caught:
            _convert(
                *(text.replace("model=", f"model={tmp_path}/") for text in overrides), f"output={tmp_path}/y.keras"
            )
        assert message in str(caught.value), overrides
        assert sorted(tmp_path.iterdir()) == before


@pytest.mark.program
@pytest.mark.slow
def test_a_run_records_them_where_other_ways_are_recorded(tmp_path: Path) -> None:
    ways = f"size_probe.ways=[{','.join(NAMES)}]"
    done = run_forked(
        *("pipeline.train", "head=global_average_pool", "training.epochs=1", "size_probe.sizes=[6,8,12]", ways),
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert "refitted at 3 sizes on 1,293 training images" in done.stdout + done.stderr  # 1437 - 144 for validation.
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path / 'outputs' / 'mlflow.db'}")
    client = mlflow.MlflowClient()
    (run,) = client.search_runs(["1"])
    accuracy = {
        (name, mode): {
            found.step: found.value
            for found in client.get_metric_history(run.info.run_id, f"size/{name}/{mode.value}/accuracy")
        }
        for name in NAMES
        for mode in Mode
    }
    assert all(sorted(found) == [6, 8, 12] for found in accuracy.values())
    assert accuracy["refit_dense", Mode.RESIZE][8] == run.data.metrics["test/accuracy"]
    predictions = pd.read_parquet(client.download_artifacts(run.info.run_id, "size_predictions.parquet"))
    for (name, mode), by_height in accuracy.items():
        for height, value in by_height.items():
            column = predictions[str(Condition(mode, height, name))]
            assert np.mean(column == predictions["label"]) == pytest.approx(value)
