"""What a training can do beyond its default: decay, warm-up, soft labels, weights of classes, an average, patience."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from sklearn.utils.class_weight import compute_class_weight

from pipeline.data import source
from pipeline.data.batches import Data
from pipeline.data.settings import Dataset
from pipeline.heads.attention import AttentionPool
from pipeline.heads.base import Head
from pipeline.heads.global_pools import GeneralizedMeanPool, GlobalAveragePool
from pipeline.models.backbones.small import SmallFcn
from pipeline.models.build import build_model
from pipeline.models.fused import fused_adam
from pipeline.models.predict import predict
from pipeline.models.scores import accuracy, cross_entropy
from pipeline.training.batches import balanced_weights, train_batches, validation_batches
from pipeline.training.devices import prepare_devices
from pipeline.training.fit import Fit, build_optimizer, exempt_from_weight_decay, fit
from pipeline.training.patience import without_progress
from pipeline.training.settings import (
    Augmentation,
    ClassWeights,
    KeepWeights,
    Optimizer,
    Precision,
    Schedule,
    Strategy,
    Training,
)

BACKBONE = SmallFcn(filters=[8, 8], strides=[1, 2])
EVERYTHING: dict[str, Any] = {
    "optimizer": Optimizer.adamw,
    "weight_decay": 0.1,
    "warmup_epochs": 0.5,
    "clip_norm": 1.0,
    "label_smoothing": 0.1,
    "class_weights": ClassWeights.balanced,
    "weight_average": 0.9,
    "augmentation": Augmentation(translate=0.1, rotate=10, zoom=0.1, operations=2, erase=0.2, mixup=0.2, cutmix=1.0),
}


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Data:
    return source.load(Dataset(name="digits", version="1.0.0"), 0, tmp_path_factory.mktemp("cache"))


def _model(head: Head | None = None) -> keras.Model:
    return build_model(BACKBONE, head or GlobalAveragePool(), (8, 8, 1), 10, seed=0)


@pytest.mark.parametrize(
    ("schedule", "rates"),
    [
        # Half of the 100 steps of the first of four epochs, all of them, and half and all of the 300 others.
        (Schedule.cosine, [0.0, 0.05, 0.1, 0.05, 0.0]),
        (Schedule.constant, [0.0, 0.05, 0.1, 0.1, 0.1]),
    ],
)
def test_the_warm_up_rises_from_zero_and_then_the_schedule_begins(schedule: Schedule, rates: list[float]) -> None:
    training = Training(epochs=4, learning_rate=0.1, warmup_epochs=1, schedule=schedule)
    rate = build_optimizer(training, steps=400)._learning_rate
    assert [float(rate(step)) for step in (0, 50, 100, 250, 400)] == pytest.approx(rates, abs=1e-8)


def test_optimizers_take_what_is_switched_on() -> None:
    def made(**settings: Any) -> keras.optimizers.Optimizer:
        return build_optimizer(Training(**settings), steps=1)

    def facts(optimizer: keras.optimizers.Optimizer) -> tuple[Any, ...]:
        return type(optimizer).__name__, optimizer.weight_decay, optimizer.global_clipnorm, optimizer.use_ema

    assert facts(made()) == ("Adam", None, None, False)
    assert facts(made(optimizer=Optimizer.adamw)) == ("Adam", None, None, False)  # The same without decay.
    assert facts(made(optimizer=Optimizer.adamw, weight_decay=0.1, clip_norm=2.0)) == ("AdamW", 0.1, 2.0, False)
    assert facts(made(optimizer=Optimizer.sgd, weight_decay=0.1, weight_average=0.9)) == ("SGD", 0.1, None, True)
    assert made(weight_average=0.9).ema_momentum == 0.9


@pytest.mark.parametrize(
    ("head", "decays"),
    [
        (GlobalAveragePool(hidden_units=[8]), ["kernel", "kernel"]),
        (GeneralizedMeanPool(trainable_p=True), ["kernel"]),  # Not its exponent.
        (AttentionPool(), ["kernel"] * 5),  # Key, query, value, output and Dense; not the learned query.
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_weights_decay_that_add_up_inputs(head: Head, decays: list[str]) -> None:
    model = _model(head)
    exempt = {variable.path for variable in exempt_from_weight_decay(model.trainable_variables)}
    names = [variable.path for variable in model.trainable_variables if variable.path not in exempt]
    # The backbone's two convolutions come first.
    assert [name.rpartition("/")[2] for name in names] == ["kernel", "kernel", *decays]
    assert not any("p_above_one" in name for name in names)


def test_a_step_takes_its_share_of_the_kernels_away_and_nothing_else() -> None:
    model = _model()
    before = [variable.numpy() for variable in model.trainable_variables]
    training = Training(optimizer=Optimizer.adamw, weight_decay=0.5, learning_rate=0.1, schedule=Schedule.constant)
    optimizer = build_optimizer(training, steps=1)
    optimizer.exclude_from_weight_decay(exempt_from_weight_decay(model.trainable_variables))
    with fused_adam():
        optimizer.apply([tf.zeros_like(weights) for weights in before], model.trainable_variables)
    for variable, weights in zip(model.trainable_variables, before, strict=True):
        # A gradient of zero makes no step of Adam: what is left is 1 − 0.1 · 0.5.
        left = 0.95 if variable.name == "kernel" else 1.0
        np.testing.assert_allclose(variable, left * weights, rtol=1e-6)


@pytest.mark.long
def test_labels_are_smoothed_for_the_training_alone(digits: Data) -> None:
    training = Training(batch_size=64, label_smoothing=0.2)
    _, plain = next(digits.train(64, epochs=1).as_numpy_iterator())
    _, smooth = next(train_batches(digits, training).as_numpy_iterator())
    # 0.8 for the class, and 0.2 / 10 for each of the ten.
    np.testing.assert_allclose(smooth, 0.8 * np.eye(10)[plain] + 0.02, rtol=1e-6)
    _, held_out = next(validation_batches(digits, training).as_numpy_iterator())
    _, labels = next(digits.validation(64).as_numpy_iterator())
    np.testing.assert_array_equal(held_out, np.eye(10)[labels])


def test_balanced_weights_are_those_of_scikit_learn() -> None:
    labels = np.array([0, 0, 0, 2])
    # Four images of two classes: 4 / (2 · 3) and 4 / (2 · 1); there are none of class 1.
    assert balanced_weights(labels, 3) == pytest.approx([2 / 3, 0, 2])
    assert balanced_weights(labels, 3)[labels].mean() == pytest.approx(1)
    expected = compute_class_weight("balanced", classes=np.array([0, 2]), y=labels)
    assert balanced_weights(labels, 3)[[0, 2]] == pytest.approx(expected)


@pytest.mark.long
def test_an_image_weighs_what_its_classes_do_by_their_shares(digits: Data) -> None:
    weights = balanced_weights(digits.train_split.labels[digits.train_indices], 10)
    plain = Training(batch_size=64, class_weights=ClassWeights.balanced)
    _, labels, weight = next(train_batches(digits, plain).as_numpy_iterator())
    np.testing.assert_allclose(weight, weights[labels], rtol=1e-6)
    mixing = Training(
        batch_size=64, class_weights=ClassWeights.balanced, label_smoothing=0.2, augmentation=Augmentation(mixup=1.0)
    )
    _, shares, weight = next(train_batches(digits, mixing).as_numpy_iterator())
    # Smoothing, s = 0.8·y + 0.02, is no part of what an image weighs.
    np.testing.assert_allclose(weight, (shares - 0.02) / 0.8 @ weights, rtol=1e-4)


def test_only_what_is_switched_on_changes_the_batches(digits: Data) -> None:
    dataset = train_batches(digits, Training(batch_size=64))
    assert dataset.element_spec[1].dtype == tf.int64
    assert len(dataset.element_spec) == 2
    pairs = zip(dataset.as_numpy_iterator(), digits.train(64, epochs=5).as_numpy_iterator(), strict=True)
    for (images, labels), (expected_images, expected_labels) in pairs:
        np.testing.assert_array_equal(images, expected_images)
        np.testing.assert_array_equal(labels, expected_labels)


@pytest.mark.long
def test_the_average_is_validated_and_kept_and_the_training_goes_on_without_it(digits: Data) -> None:
    model, own, logged = _model(), [], []

    def on_epoch(_: int, metrics: dict[str, float]) -> None:
        own.append([variable.numpy() for variable in model.trainable_variables])
        logged.append(metrics["val_accuracy"])

    # One step an epoch.
    training = Training(epochs=3, batch_size=1293, weight_average=0.75, keep_weights=KeepWeights.last)
    result = fit(model, digits, training, on_epoch)
    first, second, third = own
    for variable, one, two, three in zip(model.trainable_variables, first, second, third, strict=True):
        # It begins with the weights after the first step.
        np.testing.assert_allclose(variable, 0.75 * (0.75 * one + 0.25 * two) + 0.25 * three, rtol=1e-5, atol=1e-7)
    first_norm = next(layer for layer in model.get_layer("backbone").layers if "batch_norm" in layer.name)
    maps = keras.Model(model.get_layer("backbone").input, first_norm.input)
    images = digits.train_split.images[digits.train_indices]  # type: ignore[attr-defined]
    # The statistics are the average's own, and not what is left of those that the training began with.
    np.testing.assert_allclose(first_norm.moving_mean, np.mean(maps(images), axis=(0, 1, 2)), rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(first_norm.moving_variance, np.var(maps(images), axis=(0, 1, 2)), rtol=1e-3)
    logits, labels = predict(model, digits.validation(50))
    # Rounding may turn a tie.
    assert result.validation_accuracy == logged[2] == pytest.approx(accuracy(logits, labels), abs=1.5 / 144)


@pytest.mark.long
def test_an_average_keeps_to_the_range_of_its_weights(digits: Data) -> None:
    model = _model(GeneralizedMeanPool(p=1.0, trainable_p=True))
    fit(model, digits, Training(epochs=1, batch_size=64, weight_average=0.9, learning_rate=0.05), lambda *_: None)
    (above_one,) = [variable for variable in model.trainable_variables if "p_above_one" in variable.path]
    assert float(above_one[0, 0]) >= 0


def test_a_training_without_progress_ends() -> None:
    assert without_progress([0.5], 1) == ""
    assert without_progress([0.5, 0.6, 0.4], 2) == ""
    assert without_progress([0.5, 0.6, 0.6, 0.4], 2) == (  # As good as the best is no better.
        "after epoch 4: 2 epochs without a validation accuracy above 0.6000, that of epoch 2"
    )
    assert without_progress([0.6, 0.5], 1) == (
        "after epoch 2: 1 epoch without a validation accuracy above 0.6000, that of epoch 1"
    )


@pytest.mark.long
def test_a_training_without_patience_stays_ended_when_it_is_asked_for_again(
    digits: Data, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    training = Training(epochs=30, batch_size=128, learning_rate=1e-6, patience=1)  # It learns nothing.

    def trained() -> tuple[Fit, list[float]]:
        seen: list[float] = []
        with caplog.at_level("INFO", logger="pipeline"):
            result = fit(
                _model(), digits, training, lambda _, logs: seen.append(logs["val_accuracy"]), tmp_path / "state.npz"
            )
        return result, seen

    first, seen = trained()
    assert 1 < len(seen) < 30
    assert seen[-1] <= seen[-2] == max(seen) == first.validation_accuracy
    assert seen[:-1] == sorted(set(seen[:-1]))  # Each of the others was better than those before.
    assert first.stopped.startswith(f"after epoch {len(seen)}: 1 epoch without a validation accuracy above")
    assert f"  ended {first.stopped}" in caplog.messages
    again, seen_again = trained()
    assert (again.stopped, again.pruned, again.best_epoch, seen_again) == (first.stopped, "", first.best_epoch, seen)
    assert again.images_per_second == first.images_per_second > 0  # It trained nothing more.


@pytest.mark.slow
@pytest.mark.long
def test_what_was_recorded_loads_without_this_program(digits: Data, tmp_path: Path) -> None:
    model = _model()
    fit(model, digits, Training(epochs=1, batch_size=128, **EVERYTHING), lambda *_: None)
    model.save(tmp_path / "model.keras")
    images, _ = next(digits.test(8).as_numpy_iterator())
    np.save(tmp_path / "images.npy", images)
    code = (
        "import sys; sys.modules['pipeline'] = None\n"
        "import keras, numpy\n"
        "model = keras.saving.load_model('model.keras')\n"
        "assert type(model.loss).__module__.startswith('keras.')\n"
        "numpy.save('logits.npy', model.predict(numpy.load('images.npy'), verbose=0))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    np.testing.assert_allclose(np.load(tmp_path / "logits.npy"), model(images), rtol=1e-4, atol=1e-5)


@pytest.mark.long
def test_validation_losses_are_those_of_the_labels_as_they_are(digits: Data) -> None:
    model, seen = _model(), []
    training = Training(epochs=1, batch_size=64, keep_weights=KeepWeights.last, **EVERYTHING)
    fit(model, digits, training, lambda _, logs: seen.append(dict(logs)))
    logits, labels = predict(model, digits.validation(50))
    assert seen[0]["val_loss"] == pytest.approx(cross_entropy(logits, labels), rel=1e-4)


@pytest.mark.slow
def test_every_option_works_with_a_strategy_and_in_half_precision(
    digits: Data, in_precision: Callable[[Precision], None]
) -> None:
    def trained(**settings: Any) -> Fit:
        training = Training(epochs=3, batch_size=64, learning_rate=0.01, **settings, **EVERYTHING)
        with prepare_devices(training).scope():
            return fit(_model(), digits, training, lambda *_: None)

    plain = trained()
    assert plain.validation_accuracy > 0.2  # So few steps of so small a model; to guess is .1.
    # Sums in another order, and steps of Adam, which divide by the gradient's size.
    assert trained(strategy=Strategy.mirrored).validation_accuracy == pytest.approx(plain.validation_accuracy, abs=0.1)
    assert trained(precision=Precision.mixed_float16).validation_accuracy > 0.2


def test_a_warm_up_leaves_a_step_for_what_comes_after() -> None:
    # round(10 · 4.99 / 5) = 10 of 10 steps, of which 9 are left: 9/9 of the rate at the last.
    rate = build_optimizer(Training(epochs=5, warmup_epochs=4.99, learning_rate=0.1), steps=10)._learning_rate
    assert [float(rate(step)) for step in (0, 9)] == pytest.approx([0, 0.1])
    # One step in all: there is no warm-up.
    assert float(build_optimizer(Training(epochs=1, warmup_epochs=0.9), steps=1)._learning_rate(0)) == pytest.approx(
        3e-3
    )


def test_epochs_of_an_earlier_stage_count_in_the_text_alone() -> None:
    said = "after epoch 14: 3 epochs without a validation accuracy above 0.5000, that of epoch 11"
    assert without_progress([0.5, 0.4, 0.4, 0.4], patience=3, before=10) == said
