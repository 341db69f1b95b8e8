"""Fine-tuning: the frozen backbone behind a trained head is trained too, and it goes on wherever it stopped."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import keras
import numpy as np
import pytest

from pipeline.common.errors import ConfigError
from pipeline.data import source
from pipeline.data.batches import Data
from pipeline.data.settings import Dataset
from pipeline.heads.global_pools import GlobalAveragePool
from pipeline.models.backbones.small import SmallFcn
from pipeline.models.build import build_model
from pipeline.training.fit import Fit
from pipeline.training.frozen import Fitting, fitting_of
from pipeline.training.settings import FineTuning, KeepWeights, Training
from pipeline.training.stages import fit_in_stages, tuned_layers, unfreeze

FROZEN = SmallFcn(filters=[8, 8], strides=[1, 2], trainable=False)
TRAINING = Training(
    epochs=2,
    batch_size=256,
    keep_weights=KeepWeights.last,
    deterministic=True,
    checkpoint_seconds=0,
    fine_tuning=FineTuning(epochs=2, learning_rate=1e-3),
)
Step = tuple[int, float]


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Data:
    return source.load(Dataset(name="digits", version="1.0.0"), 0, tmp_path_factory.mktemp("cache"))


def _model() -> keras.Model:
    return build_model(FROZEN, GlobalAveragePool(hidden_units=[16], dropout=0.5), (8, 8, 1), 10, seed=0)


def _fit(
    data: Data, directory: Path, training: Training = TRAINING, stop_after: int | None = None
) -> tuple[keras.Model, Fit, Fitting, list[Step]]:
    """Trains as a run does; Ctrl-C after an epoch."""
    model, steps = _model(), []

    def note(epoch: int, metrics: dict[str, float]) -> None:
        steps.append((epoch, metrics["loss"]))
        if epoch == stop_after:
            raise KeyboardInterrupt

    fitting = fitting_of(model, FROZEN, training, data, "code", directory / "features")
    result, tested = fit_in_stages(model, data, fitting, training, note, directory / "state.npz")
    return model, result, tested, steps


@pytest.mark.slow
def test_the_second_stage_goes_on_from_the_first_and_trains_the_backbone(digits: Data, tmp_path: Path) -> None:
    untrained = _model()
    first, _, tested_first, _ = _fit(digits, tmp_path / "a", dataclasses.replace(TRAINING, fine_tuning=FineTuning()))
    assert [id(variable) for variable in tested_first.model.variables] == [
        id(variable) for variable in first.get_layer("head").variables
    ]
    # Compiled as a whole, and not the head within it: that is what is recorded.
    assert (first.compiled, first.get_layer("head").compiled) == (True, False)
    model, result, tested, steps = _fit(digits, tmp_path / "b")
    assert [epoch for epoch, _ in steps] == [0, 1, 2, 3]
    assert [metrics["loss"] for metrics in result.history] == [loss for _, loss in steps]
    assert (tested.model, tested.data, tested.features) == (model, digits, None)
    of_backbone = [part.get_layer("backbone").get_weights() for part in (untrained, first, model)]
    assert all(np.array_equal(one, other) for one, other in zip(of_backbone[0], of_backbone[1], strict=True))
    names = [weight.path.rsplit("/", 1)[-1] for weight in model.get_layer("backbone").weights]
    moved = {
        name
        for name, one, other in zip(names, of_backbone[1], of_backbone[2], strict=True)
        if not np.array_equal(one, other)
    }
    # Batch norm stays as it is: gamma, beta and both moving averages.
    assert moved == {"kernel"}
    # The rate of its own, from its first step to its last: 1,293 images are 6 steps of 256.
    assert int(model.optimizer.iterations) == 2 * 6
    assert float(model.optimizer._learning_rate(0)) == pytest.approx(1e-3)
    assert float(model.optimizer._learning_rate(2 * 6)) == pytest.approx(0, abs=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("stop_after", [0, 1, 2, 3])
def test_an_interrupted_training_ends_like_an_undisturbed_one(stop_after: int, digits: Data, tmp_path: Path) -> None:
    keras.utils.set_random_seed(0)
    model, result, _, steps = _fit(digits, tmp_path / "undisturbed")
    with pytest.raises(KeyboardInterrupt):
        _fit(digits, tmp_path / "interrupted", stop_after=stop_after)
    again, result_again, _, steps_again = _fit(digits, tmp_path / "interrupted")
    assert steps_again == steps
    assert result_again.history == result.history
    assert all(np.array_equal(one, other) for one, other in zip(model.get_weights(), again.get_weights(), strict=True))


@pytest.mark.slow
def test_the_best_epoch_may_be_one_of_the_first_stage(digits: Data, tmp_path: Path) -> None:
    # A rate at which the second stage unlearns.
    training = dataclasses.replace(
        TRAINING,
        batch_size=32,
        learning_rate=0.03,
        keep_weights=KeepWeights.best,
        fine_tuning=FineTuning(epochs=1, learning_rate=30),
    )
    model, result, _, _ = _fit(digits, tmp_path, training)
    accuracies = [metrics["val_accuracy"] for metrics in result.history]
    assert accuracies[2] < max(accuracies[:2])
    assert result.best_epoch == int(np.argmax(accuracies))
    assert result.validation_accuracy == max(accuracies)
    untrained, kept = (of.get_layer("backbone").get_weights() for of in (_model(), model))
    assert all(np.array_equal(one, other) for one, other in zip(untrained, kept, strict=True))


def test_layers_from_a_named_one_on_are_trained_and_batch_norm_is_not() -> None:
    backbone = _model().get_layer("backbone")
    convolutions = [layer for layer in backbone.layers if isinstance(layer, keras.layers.Conv2D)]
    for start, trained in ((None, convolutions), (convolutions[1].name, convolutions[1:])):
        unfreeze(backbone, FineTuning(epochs=1, from_layer=start))
        assert [id(variable) for variable in backbone.trainable_variables] == [id(layer.kernel) for layer in trained]


def test_layers_of_models_within_the_backbone_are_named_too() -> None:
    inputs = keras.Input((8, 8, 1))
    inner = keras.Sequential([keras.layers.Conv2D(2, 1, name="inner_one"), keras.layers.Conv2D(2, 1, name="inner_two")])
    backbone = keras.Model(inputs, keras.layers.Conv2D(2, 1, name="outer")(inner(inputs)))
    names = [layer.name for layer in tuned_layers(backbone, FineTuning(epochs=1, from_layer="inner_two"))]
    assert names == ["inner_two", "outer"]
    with pytest.raises(
        ConfigError,
        match=r"training\.fine_tuning\.from_layer=block: is not a layer of the backbone\. "
        r"Use one of inner_one, inner_two, outer, or null for all\.",
    ):
        tuned_layers(backbone, FineTuning(epochs=1, from_layer="block"))
