"""What happens between the steps and epochs of a training: the progress line, what is kept, and an early end."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from pipeline.common.errors import UserError
from pipeline.common.files import free_space
from pipeline.common.signals import deferred
from pipeline.training import checkpoint
from pipeline.training.patience import without_progress
from pipeline.training.pruning import behind_the_median

log = logging.getLogger("pipeline")


class LossNotFiniteError(UserError):
    """The loss is no longer a finite number. The model has the best weights of the epochs before, if there are any.

    Args:
        epoch: In which it happened, from 1.
        where: Of this epoch, in words.
    """

    def __init__(self, epoch: int, where: str) -> None:
        super().__init__(
            f"The loss is no longer a finite number, in epoch {epoch}, {where}. Use a smaller "
            "training.learning_rate or training.precision=float32."
        )
        self.epoch = epoch


def ender(state: checkpoint.State, first: int, others: Sequence[Sequence[float]], patience: int | None) -> Any:
    """A Keras callback that ends a training whose history in `state` is behind the median of others, or stands still.

    Epochs before `first`, of an earlier stage, do not count.

    It comes after the `keeper`, which writes that history.
    """

    class Ender(keras.callbacks.Callback):
        def pruned(self) -> str:
            """Why others leave it behind; an empty text if they do not."""
            return behind_the_median(accuracies, others) if others and (accuracies := self._accuracies()) else ""

        def stopped(self) -> str:
            """Why it has got no better for long enough; an empty text if it has."""
            if not patience or not (accuracies := self._accuracies()):
                return ""
            return without_progress(accuracies, patience, first)

        def _accuracies(self) -> list[float]:
            return [metrics["val_accuracy"] for metrics in state.history[first:]]

        def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
            if epoch + 1 < self.params["epochs"] and (reason := self.pruned() or self.stopped()):
                log.info("  ended %s", reason)
                self.model.stop_training = True

    return Ender()


def keeper(
    state: checkpoint.State,
    keep_best: bool,
    weights: Callable[[], list[np.ndarray]],
    state_file: Path | None,
    seconds: float | None,
) -> Any:
    """A Keras callback that keeps history and best `weights` in `state`, and the state in a file."""

    class Keeper(keras.callbacks.Callback):
        unsaved: dict[str, np.ndarray] | None = None

        def on_train_begin(self, logs: dict[str, float] | None = None) -> None:
            self.saved = time.monotonic()

        def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
            self.epoch = epoch

        def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
            # One of the steps that are executed at once.
            self._check((logs or {}).get("loss", 0.0), f"by step {batch + 1}")

        def _check(self, loss: float, where: str) -> None:
            if not math.isfinite(loss):
                if state.best_weights:
                    self.model.set_weights(state.best_weights)
                raise LossNotFiniteError(self.epoch + 1, where)

        def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
            # A step's loss is that before its update: what the last one does shows here.
            self._check((logs or {}).get("val_loss", 0.0), "on the validation images")
            state.history.append({key: float(value) for key, value in (logs or {}).items()})
            accuracies = [metrics.get("val_accuracy", math.nan) for metrics in state.history]
            if not keep_best or not state.best_weights or accuracies[epoch] > accuracies[state.best_epoch]:
                state.best_epoch, state.best_weights = epoch, weights()
            if state_file is None or seconds is None:
                return
            self.unsaved = checkpoint.capture(self.model, state)
            if time.monotonic() - self.saved >= seconds:
                self.save()

        @deferred()
        def save(self) -> None:
            """Saves the state after the newest epoch, if it is not saved yet."""
            if state_file is None or self.unsaved is None:
                return
            try:
                checkpoint.save(state_file, self.unsaved)
                self.unsaved, self.saved = None, time.monotonic()
            except OSError as error:
                log.warning(
                    "  the state after epoch %d could not be saved: %s (free: %s); the training goes on without",
                    len(state.history),
                    error,
                    free_space([state_file.parent]),
                )

    return Keeper()


def progress_line(state: checkpoint.State, images: int, epochs: int) -> Any:
    """A Keras callback that logs a line an epoch, and at most one each ten seconds within it.

    It comes before the `keeper`: how fast the training goes, without validation, over all epochs but the first, which
    also compiles (over that one if it is the only one), is kept in `state`.
    """

    class Progress(keras.callbacks.Callback):
        def __init__(self) -> None:
            super().__init__()
            self.seconds: list[float] = []

        def on_train_begin(self, logs: dict[str, float] | None = None) -> None:
            self.training_began = self.last_line = time.perf_counter()
            self.first_epoch = -1

        def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
            self.epoch, self.epoch_began = epoch, time.perf_counter()
            if self.first_epoch < 0:
                self.first_epoch = epoch
            self.trained_until: float | None = None

        def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
            now = time.perf_counter()
            if now - self.last_line >= 10:
                self.last_line = now
                share = (batch + 1) / self.params["steps"]
                log.info(
                    "  epoch %d/%d %3.0f %%  %s", self.epoch + 1, epochs, 100 * share, self._rate_and_eta(share, now)
                )

        def on_test_begin(self, logs: dict[str, float] | None = None) -> None:
            self.trained_until = time.perf_counter()

        def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
            now = self.last_line = time.perf_counter()
            self.seconds.append((self.trained_until or now) - self.epoch_began)
            steady = self.seconds[1:] or self.seconds
            state.images_per_second = len(steady) * images / sum(steady)
            logs = logs or {}
            validation = f"  val {logs['val_accuracy']:.4f}" if "val_accuracy" in logs else ""
            log.info(
                "  epoch %d/%d  accuracy: train %.4f%s  %s",
                epoch + 1,
                epochs,
                logs["accuracy"],
                validation,
                self._rate_and_eta(1.0, now),
            )

        def _rate_and_eta(self, share: float, now: float) -> str:
            elapsed = (self.trained_until or now) - self.epoch_began
            done = self.epoch + share - self.first_epoch
            left = (now - self.training_began) * (epochs - self.epoch - share) / done
            return f"{share * images / elapsed:,.0f} images/s  {left:.0f} s left"

    return Progress()
