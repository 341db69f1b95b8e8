"""Fitting a model with Keras."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras

from pipeline.data.batches import Data
from pipeline.models.fused import fused_adam, fused_batch_norm
from pipeline.training import callbacks, checkpoint
from pipeline.training.multi_worker import check_last_step, lost_ranks_told
from pipeline.training.settings import KeepWeights, Optimizer, Schedule, Training

log = logging.getLogger("pipeline")


@dataclass(frozen=True)
class Fit:
    """How a training went.

    Attributes:
        best_epoch: Epoch, from 0, whose weights were kept.
        validation_accuracy: Top-1 accuracy of these weights on the validation images; NaN without any.
        images_per_second: Training images a second without validation, over all epochs but the first, which also
            compiles (over that one if it is the only one). NaN if nothing was left to train after an interruption.
        pruned: Why it ended before its last epoch; an empty text if it did not.
    """

    best_epoch: int
    validation_accuracy: float
    images_per_second: float
    pruned: str = ""


def build_optimizer(training: Training, steps: int) -> keras.optimizers.Optimizer:
    """The optimizer for a training of so many steps."""
    rate: Any = training.learning_rate
    if training.schedule is Schedule.cosine:
        rate = keras.optimizers.schedules.CosineDecay(training.learning_rate, decay_steps=steps)
    if training.optimizer is Optimizer.sgd:
        return keras.optimizers.SGD(rate, momentum=training.momentum, nesterov=True)
    return keras.optimizers.Adam(rate)


@lost_ranks_told()
@fused_batch_norm()
@fused_adam()
def fit(
    model: keras.Model,
    data: Data,
    training: Training,
    on_epoch: Callable[[int, dict[str, float]], None],
    state_file: Path | None = None,
    others: Sequence[Sequence[float]] = (),
) -> Fit:
    """Compiles and fits `model`, and leaves it with the weights to keep.

    Args:
        model: From uint8 images to logits.
        data: Training and validation images.
        training: The knobs.
        on_epoch: Called after each epoch with its number from 0 and its metrics: `accuracy`, `loss` and, with
            validation images, `val_accuracy`, `val_loss`. Also for epochs of an interrupted training that is gone on
            with.
        state_file: Where the training's state is kept in between, and gone on from if it is there; None keeps none.
        others: Validation accuracies, epoch by epoch, of trainings behind whose median this one ends early.

    Raises:
        LossNotFiniteError: The loss is no longer a finite number.
    """
    check_last_step(len(data.train_indices), training.batch_size)
    steps = data.steps_per_epoch(training.batch_size)
    model.compile(
        optimizer=build_optimizer(training, steps * training.epochs),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=[keras.metrics.SparseCategoricalAccuracy(name="accuracy")],
        jit_compile=training.jit_compile,
    )
    # Not given to `compile`: whoever loads the recorded model would get it, too.
    model.steps_per_execution = training.steps_at_once(steps, data.facts)
    # Now, as the metric above: Keras traces a step twice, which takes a second, if it makes variables in it.
    model.optimizer.build(model.trainable_variables)
    validates = len(data.validation_indices) > 0
    keep_best = training.keep_weights is KeepWeights.best
    state = checkpoint.load(state_file, model) if state_file else None
    state = state or checkpoint.State(history=[], best_epoch=-1, best_weights=[])
    done = len(state.history)
    if done:
        log.info("  going on after epoch %d/%d of an interrupted run", done, training.epochs)
    for epoch, metrics in enumerate(state.history):
        on_epoch(epoch, metrics)
    progress = callbacks.progress_line(len(data.train_indices), training.epochs)
    keeper = callbacks.keeper(state, keep_best, state_file, training.checkpoint_seconds)
    pruner = callbacks.pruner(state, others)
    if done < training.epochs and not pruner.reason():
        try:
            model.fit(
                data.train(training.batch_size, training.epochs, training.sizes, done),
                initial_epoch=done,
                epochs=training.epochs,
                steps_per_epoch=steps,
                validation_data=data.validation(training.batch_size) if validates else None,
                callbacks=[progress, keeper, pruner, keras.callbacks.LambdaCallback(on_epoch_end=on_epoch)],
                shuffle=False,  # `data` shuffles.
                verbose=0,
            )
        except (KeyboardInterrupt, SystemExit):
            keeper.save()
            raise
        keeper.save()  # What follows the training may be interrupted, too.
    model.set_weights(state.best_weights)
    return Fit(
        best_epoch=state.best_epoch,
        validation_accuracy=state.history[state.best_epoch]["val_accuracy"] if validates else math.nan,
        images_per_second=progress.images_per_second(),
        pruned=pruner.reason() if len(state.history) < training.epochs else "",
    )
