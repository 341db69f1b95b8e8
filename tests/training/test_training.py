"""Fitting: schedule, kept weights, progress, precision, and what happens when the loss explodes."""

from __future__ import annotations

import itertools
import logging
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import keras
import numpy as np
import pytest

from pipeline.common.errors import ConfigError
from pipeline.data import source
from pipeline.data.batches import Data
from pipeline.data.facts import DatasetFacts
from pipeline.data.settings import Dataset
from pipeline.heads.global_pools import GlobalAveragePool
from pipeline.models.backbones.small import SmallFcn
from pipeline.models.build import build_model
from pipeline.models.predict import predict
from pipeline.models.scores import accuracy, cross_entropy
from pipeline.training import callbacks
from pipeline.training.callbacks import LossNotFiniteError
from pipeline.training.devices import prepare_devices
from pipeline.training.fit import Fit, build_optimizer, fit
from pipeline.training.settings import BatchCounts, KeepWeights, Optimizer, Precision, Schedule, Strategy, Training
from tests.training.test_recipe import EVERYTHING

BACKBONE = SmallFcn(filters=[8, 8], strides=[1, 2])


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Data:
    return source.load(Dataset(name="digits", version="1.0.0"), 0, tmp_path_factory.mktemp("cache"))


def _model() -> keras.Model:
    return build_model(BACKBONE, GlobalAveragePool(), (8, 8, 1), 10, seed=0)


def test_cosine_goes_from_the_full_rate_to_zero() -> None:
    rate = build_optimizer(Training(learning_rate=0.1), steps=100)._learning_rate
    # 0.1 · (1 + cos(π · step / 100)) / 2
    assert [float(rate(step)) for step in (0, 50, 100)] == pytest.approx([0.1, 0.05, 0.0], abs=1e-8)


def test_optimizers_take_their_knobs() -> None:
    sgd = build_optimizer(Training(optimizer=Optimizer.sgd, momentum=0.8, schedule=Schedule.constant), steps=1)
    assert (type(sgd).__name__, sgd.momentum, sgd.nesterov) == ("SGD", 0.8, True)
    assert float(sgd.learning_rate) == pytest.approx(3e-3)
    assert type(build_optimizer(Training(), steps=1)).__name__ == "Adam"


@pytest.mark.long
def test_best_weights_are_those_of_the_best_validation_epoch(digits: Data) -> None:
    seen: list[tuple[int, dict[str, float]]] = []
    model = _model()
    training = Training(epochs=4, batch_size=64, learning_rate=0.05, schedule=Schedule.constant)
    result = fit(model, digits, training, lambda epoch, logs: seen.append((epoch, dict(logs))))

    assert [epoch for epoch, _ in seen] == [0, 1, 2, 3]
    assert all(set(logs) == {"accuracy", "loss", "val_accuracy", "val_loss"} for _, logs in seen)
    validation = [logs["val_accuracy"] for _, logs in seen]
    assert result.best_epoch == int(np.argmax(validation))
    assert result.validation_accuracy == max(validation)
    logits, labels = predict(model, digits.validation(50))
    assert accuracy(logits, labels) == pytest.approx(max(validation), abs=1.5 / 144)  # Rounding may turn a tie.
    assert cross_entropy(logits, labels) == pytest.approx(seen[result.best_epoch][1]["val_loss"], rel=1e-4)
    assert int(model.optimizer.iterations) == 4 * math.ceil(1293 / 64)


@pytest.mark.long
def test_last_weights_need_no_validation(tmp_path: Path) -> None:
    data = source.load(Dataset(name="digits", version="1.0.0", validation_fraction=0.0), 0, tmp_path)
    seen: list[dict[str, float]] = []
    training = Training(epochs=2, batch_size=128, keep_weights=KeepWeights.last)
    result = fit(_model(), data, training, lambda _, logs: seen.append(dict(logs)))
    assert result.best_epoch == 1
    assert math.isnan(result.validation_accuracy)
    assert [set(logs) for logs in seen] == [{"accuracy", "loss"}] * 2


def _let_each_look_at_the_clock_take(seconds: float, monkeypatch: pytest.MonkeyPatch) -> None:
    looks = itertools.count(1)
    clock = SimpleNamespace(perf_counter=lambda: seconds * next(looks), monotonic=lambda: 0.0)
    monkeypatch.setattr(callbacks, "time", clock)


@pytest.mark.long
def test_progress_tells_rate_and_time_left(
    digits: Data, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a clock of its own, so that no line depends on how fast this machine is."""
    # Looks: the beginning of the training and then, of each epoch, its beginning, its 11 steps, which are executed at
    # once, the beginning of the validation and the end. An epoch's steps take two of them, which is a second.
    _let_each_look_at_the_clock_take(0.5, monkeypatch)
    with caplog.at_level(logging.INFO, logger="pipeline"):
        result = fit(_model(), digits, Training(epochs=2, batch_size=128), lambda *_: None)
    first, second = (record.getMessage() for record in caplog.records if record.name == "pipeline")
    assert first.startswith("  epoch 1/2  accuracy: train 0.")
    assert first.endswith("  1,293 images/s  2 s left")  # The first epoch ends at the fifth look: 4 · 0.5 s.
    assert second.startswith("  epoch 2/2  accuracy: train 0.")
    assert second.endswith("  1,293 images/s  0 s left")
    assert result.images_per_second == 1293


@pytest.mark.long
def test_within_an_epoch_progress_is_told_every_ten_seconds(
    digits: Data, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The training begins at 5 s, its only epoch at 10 s, and its 11 steps end at 15, 20, …, 65 s.
    _let_each_look_at_the_clock_take(5.0, monkeypatch)
    with caplog.at_level(logging.INFO, logger="pipeline"):
        fit(_model(), digits, Training(epochs=1, batch_size=128, steps_per_execution=1), lambda *_: None)
    *within, end = (record.getMessage() for record in caplog.records if record.name == "pipeline")
    # Every second step is ten seconds after the last line. After n steps, n/11 of 1,293 images took 5n s, which is 23.5
    # a second, and the training took 5n + 5 s, so that 5·(n + 1)·(11 − n)/n are left.
    assert within == [
        "  epoch 1/1   9 %  24 images/s  100 s left",
        "  epoch 1/1  27 %  24 images/s  53 s left",
        "  epoch 1/1  45 %  24 images/s  36 s left",
        "  epoch 1/1  64 %  24 images/s  23 s left",
        "  epoch 1/1  82 %  24 images/s  11 s left",
        "  epoch 1/1 100 %  24 images/s  0 s left",
    ]
    assert end.endswith("  22 images/s  0 s left")  # The validation begins at 70 s: 1,293 / 60.


@pytest.mark.long
def test_an_exploding_loss_is_told_with_epoch_and_step_and_leaves_the_last_good_weights(digits: Data) -> None:
    training = Training(
        epochs=3, batch_size=128, learning_rate=3e38, optimizer=Optimizer.sgd, schedule=Schedule.constant
    )
    with pytest.raises(LossNotFiniteError, match=r"no longer a finite number, in epoch 1, by step \d+. Use a smaller"):
        fit(_model(), digits, training, lambda *_: None)

    model, kept = _model(), []

    def explode_after_the_first(epoch: int, _: dict[str, float]) -> None:
        kept.extend(model.get_weights())
        model.set_weights([weights * np.nan for weights in kept])

    # ⌈1,293 / 128⌉ = 11 steps, which are executed at once.
    with pytest.raises(LossNotFiniteError, match=r"in epoch 2, by step 11\."):
        fit(model, digits, Training(epochs=3, batch_size=128), explode_after_the_first)
    assert all(np.array_equal(one, other) for one, other in zip(model.get_weights(), kept, strict=True))


@pytest.mark.long
def test_what_the_last_step_of_an_epoch_breaks_shows_on_the_validation_images(digits: Data) -> None:
    # One step an epoch, whose loss is that before its update.
    training = Training(epochs=2, batch_size=1293, learning_rate=3e38, optimizer=Optimizer.sgd)
    with pytest.raises(LossNotFiniteError, match=r"in epoch 1, on the validation images\. Use a smaller"):
        fit(_model(), digits, training, lambda *_: None)


def test_steps_of_small_images_are_executed_at_once() -> None:
    def facts(side: int, natural: bool = False) -> DatasetFacts:
        return DatasetFacts("any", "1.0.0", (side, side, 1), ("one", "two"), natural)

    # At most 128 · 28 · 28 = 100,352 pixels: of 32 images of 8×8 px, 49 steps; of 28×28 px, 4 steps.
    assert Training(batch_size=32).steps_at_once(41, facts(8)) == 41  # a prime
    assert Training(batch_size=32).steps_at_once(60, facts(8)) == 30
    assert Training(batch_size=32).steps_at_once(1688, facts(28)) == 4  # 1688 = 4 · 422
    assert Training().steps_at_once(422, facts(28)) == 1
    assert Training().steps_at_once(422, facts(500)) == 1
    assert Training(batch_size=32, sizes=[8, 16]).steps_at_once(60, facts(8)) == 12  # 100,352 / (32 · 16 · 16) = 12.25
    assert Training(batch_size=32, strategy=Strategy.mirrored).steps_at_once(41, facts(8)) == 1
    assert Training(batch_size=32).steps_at_once(41, facts(8, natural=True)) == 1  # Nobody knows how large they are.
    assert Training(steps_per_execution=211).steps_at_once(422, facts(28)) == 211
    # One thread for at most 8,192 pixels in a step: 128 images of 8×8 px, 32 of 16×16 px.
    assert Training(batch_size=128).wants_one_thread(facts(8))
    assert not Training(batch_size=129).wants_one_thread(facts(8))
    assert Training(batch_size=32, sizes=[8, 16]).wants_one_thread(facts(8))
    assert not Training(batch_size=32, sizes=[8, 17]).wants_one_thread(facts(8))
    assert not Training(batch_size=1).wants_one_thread(facts(8, natural=True))
    message = r"training.steps_per_execution=20: must divide the 41 steps of an epoch. Use one of 1, 41, or null."
    with pytest.raises(ConfigError, match=message):
        Training(steps_per_execution=20).steps_at_once(41, facts(8))


@pytest.mark.long
def test_a_saved_model_takes_no_steps_at_once(digits: Data, tmp_path: Path) -> None:
    model = _model()
    fit(model, digits, Training(epochs=1, batch_size=32), lambda *_: None)
    model.save(tmp_path / "model.keras")
    assert model.steps_per_execution == 41
    assert keras.saving.load_model(tmp_path / "model.keras").steps_per_execution == 1


@pytest.mark.long
def test_steps_at_once_train_what_single_steps_do(digits: Data) -> None:
    def trained(at_once: int | None) -> tuple[list[np.ndarray], list[dict[str, float]]]:
        model, seen = _model(), []
        # Not with Adam, which divides by the gradient's size: of a rounding error it makes a whole step.
        optimizer: dict[str, Any] = {"optimizer": Optimizer.sgd, "learning_rate": 0.01, "steps_per_execution": at_once}
        training = Training(epochs=2, batch_size=32, keep_weights=KeepWeights.last, **optimizer)
        fit(model, digits, training, lambda _, logs: seen.append(dict(logs)))
        assert (model.steps_per_execution, int(model.optimizer.iterations)) == (at_once or 41, 2 * 41)
        return model.get_weights(), seen

    (together, together_seen), (single, single_seen) = trained(None), trained(1)
    for one, other in zip(together, single, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-4)
    for logs, other_logs in zip(together_seen, single_seen, strict=True):
        assert logs == pytest.approx(other_logs, abs=0.01)


@pytest.mark.slow
def test_a_training_behind_the_median_of_five_others_ends(digits: Data, caplog: pytest.LogCaptureFixture) -> None:
    def trained(others: list[list[float]]) -> tuple[Fit, list[int]]:
        seen: list[int] = []
        training = Training(epochs=3, batch_size=128, learning_rate=1e-6)  # It learns nothing: about one in ten.
        return fit(_model(), digits, training, lambda epoch, _: seen.append(epoch), None, others), seen

    # In the second epoch, the median of .5, .6, .7, .8, .9 is .7; those of one epoch have no say.
    others = [[0.0, 0.5, 0.9], [0.0, 0.6, 0.9], [0.0, 0.7, 0.9], [0.0, 0.8, 0.9], [0.0, 0.9, 0.9], [0.0], [0.0]]
    with caplog.at_level(logging.INFO, logger="pipeline"):
        ended, epochs = trained(others)
    assert epochs == [0, 1]
    best = ended.validation_accuracy
    assert ended.pruned == (
        f"after epoch 2: its best validation accuracy, {best:.4f}, is below 0.7000, the median of the 5 runs before it "
        "at that epoch"
    )
    assert f"  ended {ended.pruned}" in caplog.messages
    whole, epochs = trained(others[1:])  # Four are too few.
    assert (whole.pruned, epochs) == ("", [0, 1, 2])
    assert trained([[0.0, 0.0, 1.0]] * 5)[0].pruned == ""  # Nothing is left to end after the last epoch.


@pytest.mark.long
def test_a_pruned_training_that_is_asked_for_again_stays_pruned(digits: Data, tmp_path: Path) -> None:
    training = Training(epochs=3, batch_size=128, learning_rate=1e-6, checkpoint_seconds=1e9)
    seen: list[dict[str, float]] = []
    first, again = (
        fit(
            _model(), digits, training, lambda _, logs: seen.append(dict(logs)), tmp_path / "state.npz", [[0.9] * 3] * 5
        )
        for _ in range(2)
    )
    assert first.pruned.startswith("after epoch 1: ")
    assert (again.pruned, again.validation_accuracy) == (first.pruned, first.validation_accuracy)
    assert again.images_per_second == first.images_per_second > 0  # It trained nothing more.
    assert len(seen) == 2
    assert seen[0] == pytest.approx(seen[1])


@pytest.mark.long
def test_mixed_precision_keeps_logits_in_float32(digits: Data) -> None:
    training = Training(epochs=1, batch_size=128, precision=Precision.mixed_bfloat16)
    try:
        prepare_devices(training)
        model = _model()
        assert model.get_layer("backbone").layers[2].compute_dtype == "bfloat16"
        assert model.output.dtype == "float32"
        fit(model, digits, training, lambda *_: None)
    finally:
        prepare_devices(Training())
    assert keras.config.dtype_policy().name == "float32"


@pytest.mark.slow
def test_a_mirrored_strategy_on_one_device_trains_the_same(digits: Data) -> None:
    def weights(strategy: Strategy) -> list[np.ndarray]:
        # Not with Adam, which divides by the gradient's size: of a rounding error it makes a whole step.
        optimizer: dict[str, Any] = {"optimizer": Optimizer.sgd, "learning_rate": 0.01}
        training = Training(epochs=2, batch_size=128, strategy=strategy, keep_weights=KeepWeights.last, **optimizer)
        with prepare_devices(training).scope():
            model = _model()
            fit(model, digits, training, lambda *_: None)
        return model.get_weights()

    for mirrored, plain in zip(weights(Strategy.mirrored), weights(Strategy.none), strict=True):
        assert np.allclose(mirrored, plain, atol=1e-3)


@pytest.mark.long
def test_a_model_for_any_size_trains_at_several(digits: Data) -> None:
    model = _model()
    losses: list[float] = []
    training = Training(epochs=3, batch_size=64, sizes=[6, 8, 12], keep_weights=KeepWeights.last)
    result = fit(model, digits, training, lambda _, logs: losses.append(logs["loss"]))
    logits, labels = predict(model, digits.validation(50))  # at 8 px
    # Rounding may turn a tie.
    assert result.validation_accuracy == pytest.approx(accuracy(logits, labels), abs=1.5 / 144)
    assert losses[2] < losses[0]


@pytest.mark.long
@pytest.mark.parametrize(
    ("keep_weights", "seconds", "options"),
    [
        (KeepWeights.best, 0.0, {}),  # Saved after each epoch.
        pytest.param(KeepWeights.last, 1e9, {}, marks=pytest.mark.slow),  # Saved when it is interrupted.
        pytest.param(KeepWeights.best, 0.0, {"batch_counts": BatchCounts.pixels}, marks=pytest.mark.slow),
        pytest.param(KeepWeights.best, 0.0, EVERYTHING, marks=pytest.mark.slow),
        pytest.param(KeepWeights.last, 0.0, {**EVERYTHING, "optimizer": Optimizer.sgd}, marks=pytest.mark.slow),
    ],
    ids=["best", "last", "pixels", "recipe", "recipe-sgd"],
)
def test_an_interrupted_training_ends_like_an_undisturbed_one(
    digits: Data, tmp_path: Path, keep_weights: KeepWeights, seconds: float, options: dict[str, Any]
) -> None:
    """Bit for bit: weights, optimizer and its average, random state of dropout, what is drawn of and for the images."""
    training = Training(
        epochs=4,
        batch_size=64,
        sizes=[6, 8],
        keep_weights=keep_weights,
        deterministic=True,
        checkpoint_seconds=seconds,
        **options,
    )
    prepare_devices(training)
    head = GlobalAveragePool(dropout=0.3)

    def run(state_file: Path | None, interrupt_after: int | None = None) -> tuple[list[np.ndarray], Fit, list[object]]:
        logged: list[object] = []

        def on_epoch(epoch: int, metrics: dict[str, float]) -> None:
            logged.append((epoch, dict(metrics)))
            if epoch == interrupt_after:
                raise KeyboardInterrupt

        model = build_model(BACKBONE, head, (8, 8, 1), 10, seed=0)
        result = fit(model, digits, training, on_epoch, state_file)
        return model.get_weights(), result, logged

    undisturbed, expected, history = run(None)
    state_file = tmp_path / "state.npz"
    for interruption in (0, 2):
        with pytest.raises(KeyboardInterrupt):
            run(state_file, interruption)
    weights, result, logged = run(state_file)
    assert [path.name for path in tmp_path.iterdir()] == ["state.npz"]
    assert all(np.array_equal(one, other) for one, other in zip(weights, undisturbed, strict=True))
    assert logged == history
    assert (result.best_epoch, result.validation_accuracy) == (expected.best_epoch, expected.validation_accuracy)
    # Once more: every epoch is done already.
    rate = result.images_per_second
    weights, result, logged = run(state_file)
    assert all(np.array_equal(one, other) for one, other in zip(weights, undisturbed, strict=True))
    assert logged == history
    assert result.images_per_second == rate > 0


@pytest.mark.long
def test_a_state_that_cannot_be_read_is_named_and_the_training_begins_anew(
    digits: Data, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    state_file = tmp_path / "state.npz"
    training = Training(epochs=1, batch_size=128, checkpoint_seconds=0.0)
    fit(_model(), digits, training, lambda *_: None, state_file)
    whole = state_file.read_bytes()
    other = build_model(SmallFcn(filters=[4], strides=[1]), GlobalAveragePool(), (8, 8, 1), 10, seed=0)

    def epochs_of(model: keras.Model) -> list[int]:
        seen: list[int] = []
        fit(model, digits, training, lambda epoch, _: seen.append(epoch), state_file)
        return seen

    for content, model in ((whole[: len(whole) // 2], _model()), (b"", _model()), (whole, other)):
        state_file.write_bytes(content)
        caplog.clear()
        assert epochs_of(model) == [0]
        assert "cannot be read" in caplog.text
        assert str(state_file) in caplog.text
