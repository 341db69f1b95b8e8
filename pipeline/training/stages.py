"""A training in one stage or two: the head behind a frozen backbone, and then both."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import keras

from pipeline.common.errors import suggestion, the_first_of
from pipeline.data.batches import Data
from pipeline.models.graph import leaves
from pipeline.training.checkpoint import State
from pipeline.training.fit import Fit, fit
from pipeline.training.frozen import Fitting
from pipeline.training.settings import FineTuning, Training
from pipeline.training.state_files import state_files

log = logging.getLogger("pipeline")


def fit_in_stages(
    model: keras.Model,
    data: Data,
    fitting: Fitting,
    training: Training,
    on_epoch: Callable[[int, dict[str, float]], None],
    state_file: Path,
    others: Sequence[Sequence[float]] = (),
) -> tuple[Fit, Fitting]:
    """Fits `fitting` and, with `Training.fine_tuning`, the model whose head it is; both stages go on if interrupted.

    The second stage begins with the weights that the first one keeps, and its epochs count on. The weights that are
    kept in the end are the best, or the last, of all epochs.

    Args:
        model: From uint8 images to logits.
        data: Training and validation images.
        fitting: What the first stage fits.
        training: The knobs.
        on_epoch: See `fit`.
        state_file: Where the first stage's state is kept; the second's lies beside it.
        others: See `fit`.

    Returns:
        How it went, and what the trained model is tested as.

    Raises:
        LossNotFiniteError: The loss is no longer a finite number.
    """
    tuning = training.fine_tuning
    first = fit(fitting.model, fitting.data, training, on_epoch, state_file, others)
    if tuning.epochs == 0:
        if fitting.model is not model:
            # What is recorded is the whole model: whoever loads it can evaluate it, as any other.
            model.compile_from_config(fitting.model.get_compile_config())
        return first, fitting
    done = len(first.history)
    log.info("  fine-tuning from %s on, %d epochs", tuning.from_layer or "the first layer", tuning.epochs)
    unfreeze(model.get_layer("backbone"), tuning)
    second = dataclasses.replace(
        training,
        epochs=done + tuning.epochs,
        learning_rate=tuning.learning_rate,
        warmup_epochs=0.0,
        fine_tuning=FineTuning(),
    )
    began = State(first.history, first.best_epoch, model.get_weights())
    result = fit(model, data, second, on_epoch, state_files(state_file)[1], began=began)
    stopped = "; ".join(reason for reason in (first.stopped, result.stopped) if reason)
    return dataclasses.replace(result, stopped=stopped), Fitting(model, data)


def check_layers(model: keras.Model, training: Training) -> None:
    """Raises `ConfigError` if fine-tuning is to begin at a layer that the backbone does not have."""
    tuned_layers(model.get_layer("backbone"), training.fine_tuning)


def unfreeze(backbone: keras.Model, tuning: FineTuning) -> None:
    """Lets a backbone be trained from `from_layer` on, but for batch norm: that stays in inference mode."""
    tuned = tuned_layers(backbone, tuning)
    backbone.trainable = True  # Models within it, too.
    for layer in leaves(backbone):
        layer.trainable = layer in tuned and not isinstance(layer, keras.layers.BatchNormalization)


def tuned_layers(backbone: keras.Model, tuning: FineTuning) -> list[keras.Layer]:
    """The backbone's layers from `from_layer` on, in the order in which they compute.

    Raises:
        ConfigError: It has no such layer.
    """
    layers = leaves(backbone)
    if tuning.from_layer is None:
        return layers
    names = [layer.name for layer in layers]
    tuning.require(
        "from_layer",
        tuning.from_layer in names,
        "is not a layer of the backbone",
        f"Use one of {the_first_of([layer.name for layer in layers if layer.weights])}, or null for all. "
        f"{suggestion(tuning.from_layer, names)}".rstrip(),
    )
    return layers[names.index(tuning.from_layer) :]
