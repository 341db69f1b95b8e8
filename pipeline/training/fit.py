"""Fitting a model with Keras."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import keras

from pipeline.data.batches import Data
from pipeline.models.fused import fused_adam, fused_batch_norm
from pipeline.training import callbacks, checkpoint
from pipeline.training.average import averaging
from pipeline.training.batches import train_batches, validation_batches
from pipeline.training.multi_worker import check_last_step, lost_ranks_told
from pipeline.training.settings import KeepWeights, Optimizer, Schedule, SizeSchedule, Training
from pipeline.training.step_sizes import steps_per_epoch

log = logging.getLogger("pipeline")


@dataclass(frozen=True)
class Fit:
    """How a training went.

    Attributes:
        best_epoch: Epoch, from 0, whose weights were kept.
        validation_accuracy: Top-1 accuracy of these weights on the validation images; NaN without any.
        images_per_second: Training images a second without validation, over all epochs of the newest process that
            trained but its first, which also compiles (over that one if it is the only one).
        pruned: Why others ended it before its last epoch; an empty text if they did not.
        stopped: Why `Training.patience` did.
        history: Metrics of each epoch, as Keras names them.
    """

    best_epoch: int
    validation_accuracy: float
    images_per_second: float
    pruned: str = ""
    stopped: str = ""
    history: list[dict[str, float]] = field(default_factory=list)


def build_optimizer(training: Training, steps: int) -> keras.optimizers.Optimizer:
    """The optimizer for a training of so many steps."""
    shared: dict[str, Any] = {
        "weight_decay": training.weight_decay or None,
        "global_clipnorm": training.clip_norm,
        "use_ema": training.weight_average is not None,
        "ema_momentum": training.weight_average or 0.0,
    }
    rate = _learning_rate(training, steps)
    if training.optimizer is Optimizer.sgd:
        return keras.optimizers.SGD(rate, momentum=training.momentum, nesterov=True, **shared)
    if training.weight_decay > 0:
        return keras.optimizers.AdamW(rate, **shared)
    return keras.optimizers.Adam(rate, **shared)


def _learning_rate(training: Training, steps: int) -> Any:
    """The course of the learning rate, or the one that it stays at."""
    rate, schedules = training.learning_rate, keras.optimizers.schedules
    warmup = min(round(steps * training.warmup_epochs / training.epochs), steps - 1)
    if training.schedule is Schedule.cosine:
        if warmup == 0:
            return schedules.CosineDecay(rate, decay_steps=steps)
        return schedules.CosineDecay(0.0, decay_steps=steps - warmup, warmup_target=rate, warmup_steps=warmup)
    # From zero to the full rate, and there it stays.
    return schedules.PolynomialDecay(0.0, decay_steps=warmup, end_learning_rate=rate) if warmup > 0 else rate


def exempt_from_weight_decay(variables: Sequence[keras.Variable]) -> list[keras.Variable]:
    """All but kernels that add up several inputs.

    So biases, the scale and offset of norms, and the single numbers and vectors that heads learn as a kernel on a 1:
    the exponent of a generalised mean, the query of an attention.
    """
    return [
        variable
        for variable in variables
        if not (variable.name.endswith("kernel") and math.prod(variable.shape[:-1]) > 1)
    ]


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
    began: checkpoint.State | None = None,
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
        began: What an earlier stage came to, whose epochs are the first of `training.epochs`; None for none.

    Raises:
        LossNotFiniteError: The loss is no longer a finite number.
    """
    check_last_step(len(data.train_indices), training.batch_size)
    steps = steps_per_epoch(data, training)
    first = len(began.history) if began else 0
    optimizer = build_optimizer(training, steps * (training.epochs - first))
    optimizer.exclude_from_weight_decay(exempt_from_weight_decay(model.trainable_variables))
    # Keras's own, also for smoothed and mixed labels: a loss of our own would stand in every recorded model, so that
    # none could be loaded without this program.
    loss, accuracy = keras.losses.SparseCategoricalCrossentropy, keras.metrics.SparseCategoricalAccuracy
    if training.has_soft_labels:
        loss, accuracy = keras.losses.CategoricalCrossentropy, keras.metrics.CategoricalAccuracy
    model.compile(
        optimizer=optimizer,
        loss=loss(from_logits=True),
        metrics=[accuracy(name="accuracy")],
        jit_compile=training.jit_compile,
    )
    # Not given to `compile`: whoever loads the recorded model would get it, too.
    model.steps_per_execution = training.steps_at_once(steps, data.facts)
    # Now, as the metric above: Keras traces a step twice, which takes a second, if it makes variables in it.
    model.optimizer.build(model.trainable_variables)
    validates = len(data.validation_indices) > 0
    keep_best = training.keep_weights is KeepWeights.best
    state = checkpoint.load(state_file, model) if state_file else None
    state = state or began or checkpoint.State(history=[], best_epoch=-1, best_weights=[])
    done = len(state.history)
    if done > first:
        log.info("  going on after epoch %d/%d of an interrupted run", done, training.epochs)
    for epoch in range(first, done):
        on_epoch(epoch, state.history[epoch])
    progress = callbacks.progress_line(state, len(data.train_indices), training.epochs)
    average = None
    if training.weight_average is not None:
        # All sizes: a progressive training begins with the smallest alone.
        of_all_sizes = replace(training, size_schedule=SizeSchedule.uniform)
        average = averaging(lambda: train_batches(data, of_all_sizes))
    weights = average.weights if average else model.get_weights
    keeper = callbacks.keeper(state, keep_best, weights, state_file, training.checkpoint_seconds)
    ender = callbacks.ender(state, first, others, training.patience)
    if done < training.epochs and not (ender.pruned() or ender.stopped()):
        try:
            model.fit(
                train_batches(data, training, done),
                initial_epoch=done,
                epochs=training.epochs,
                steps_per_epoch=steps,
                validation_data=validation_batches(data, training) if validates else None,
                callbacks=[
                    *([average] if average else []),
                    *(progress, keeper, ender, keras.callbacks.LambdaCallback(on_epoch_end=on_epoch)),
                ],
                shuffle=False,  # `data` shuffles.
                verbose=0,
            )
        except (KeyboardInterrupt, SystemExit):
            keeper.save()
            raise
        keeper.save()  # What follows the training may be interrupted, too.
    model.set_weights(state.best_weights)
    ended_early = len(state.history) < training.epochs
    return Fit(
        best_epoch=state.best_epoch,
        validation_accuracy=state.history[state.best_epoch]["val_accuracy"] if validates else math.nan,
        images_per_second=state.images_per_second,
        pruned=ender.pruned() if ended_early else "",
        stopped=ender.stopped() if ended_early else "",
        history=state.history,
    )
