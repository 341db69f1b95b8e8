"""How Keras fits a model: the knobs, the devices, the optimizer, the progress line."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any

from pipeline.errors import UserError, require, require_at_least

if TYPE_CHECKING:
    import keras
    import tensorflow as tf

    from pipeline.data import Data

log = logging.getLogger("pipeline")


class Optimizer(Enum):
    adam = "adam"
    sgd = "sgd"


class Schedule(Enum):
    """How the learning rate goes: `constant`, or from its full value to zero along half a `cosine`."""

    constant = "constant"
    cosine = "cosine"


class KeepWeights(Enum):
    """Which weights a run ends with: of the epoch with the `best` validation accuracy, or of the `last`."""

    best = "best"
    last = "last"


class Precision(Enum):
    """Keras's dtype policy; logits are float32 in all of them."""

    float32 = "float32"
    mixed_float16 = "mixed_float16"
    mixed_bfloat16 = "mixed_bfloat16"


class Strategy(Enum):
    """`tf.distribute` strategy: `none`, or `mirrored` over all GPUs of this machine."""

    none = "none"
    mirrored = "mirrored"


@dataclass
class Training:
    """How a model is fitted.

    Attributes:
        epochs: Passes over the training images.
        batch_size: Images in a step.
        sizes: Heights in pixels, of which each step draws one to resize its images to, the same for every head; null
            trains at the size of the images. Validation and test keep that size.
        optimizer: `adam` or `sgd`.
        learning_rate: At the start.
        momentum: Nesterov momentum of `sgd`.
        schedule: Course of the learning rate, step by step.
        keep_weights: `best` on the validation images, or `last`.
        deterministic: Bit-identical results for the same seed on the same machine, at some cost in speed.
        precision: Keras's dtype policy.
        strategy: `tf.distribute` strategy.
        jit_compile: Compile with XLA; on CPUs that is slower.
    """

    epochs: int = 5
    batch_size: int = 128
    sizes: list[int] | None = None
    optimizer: Optimizer = Optimizer.adam
    learning_rate: float = 3e-3
    momentum: float = 0.9
    schedule: Schedule = Schedule.cosine
    keep_weights: KeepWeights = KeepWeights.best
    deterministic: bool = False
    precision: Precision = Precision.float32
    strategy: Strategy = Strategy.none
    jit_compile: bool = False

    def __post_init__(self) -> None:
        require_at_least(1, "training.epochs", self.epochs, 5)
        require_at_least(1, "training.batch_size", self.batch_size, 128)
        require(
            self.sizes is None or (len(self.sizes) > 0 and all(side >= 1 for side in self.sizes)),
            "training.sizes",
            self.sizes,
            "must be null or hold at least one height, each at least 1 px",
            "Use for example training.sizes=[20,24,28,32,40].",
        )
        require(
            self.learning_rate > 0 and math.isfinite(self.learning_rate),
            "training.learning_rate",
            self.learning_rate,
            "must be a number above 0",
            "Use for example training.learning_rate=0.003.",
        )
        require(
            0 <= self.momentum < 1,
            "training.momentum",
            self.momentum,
            "must lie in [0, 1)",
            "Use for example training.momentum=0.9.",
        )

    def prepare_devices(self) -> tf.distribute.Strategy:
        """Sets precision, determinism and GPU memory growth; returns the strategy to build and fit under."""
        import keras
        import tensorflow as tf

        for gpu in tf.config.list_physical_devices("GPU"):
            tf.config.experimental.set_memory_growth(gpu, True)
        keras.config.set_dtype_policy(self.precision.value)
        if self.deterministic:
            # Stays on in this process for good: TensorFlow has no way back.
            tf.config.experimental.enable_op_determinism()
        if self.strategy is Strategy.mirrored:
            return tf.distribute.MirroredStrategy()
        return tf.distribute.get_strategy()

    def build_optimizer(self, steps: int) -> keras.optimizers.Optimizer:
        """The optimizer for a training of so many steps."""
        import keras

        rate: Any = self.learning_rate
        if self.schedule is Schedule.cosine:
            rate = keras.optimizers.schedules.CosineDecay(self.learning_rate, decay_steps=steps)
        if self.optimizer is Optimizer.sgd:
            return keras.optimizers.SGD(rate, momentum=self.momentum, nesterov=True)
        return keras.optimizers.Adam(rate)


@dataclass(frozen=True)
class Fit:
    """How a training went.

    Attributes:
        best_epoch: Epoch, from 0, whose weights were kept.
        validation_accuracy: Top-1 accuracy of these weights on the validation images; NaN without any.
        images_per_second: Training images a second without validation, over all epochs but the first, which also
            compiles (over that one if it is the only one).
    """

    best_epoch: int
    validation_accuracy: float
    images_per_second: float


def fit(model: keras.Model, data: Data, training: Training, on_epoch: Callable[[int, dict[str, float]], None]) -> Fit:
    """Compiles and fits `model`, and leaves it with the weights to keep.

    Args:
        model: From uint8 images to logits.
        data: Training and validation images.
        training: The knobs.
        on_epoch: Called after each epoch with its number from 0 and its metrics: `accuracy`, `loss` and, with
            validation images, `val_accuracy`, `val_loss`.

    Raises:
        UserError: The loss is no longer a finite number.
    """
    import keras

    steps = data.steps_per_epoch(training.batch_size)
    model.compile(
        optimizer=training.build_optimizer(steps * training.epochs),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        jit_compile=training.jit_compile,
    )
    validates = len(data.validation_indices) > 0
    progress = _progress(len(data.train_indices), training.epochs)
    callbacks = [progress, keras.callbacks.LambdaCallback(on_epoch_end=on_epoch)]
    if training.keep_weights is KeepWeights.best:
        # Its patience never runs out: it only puts the best weights back at the end.
        keeper = keras.callbacks.EarlyStopping(
            "val_accuracy", mode="max", patience=training.epochs, restore_best_weights=True
        )
        callbacks.append(keeper)
    history = model.fit(
        data.train(training.batch_size, training.epochs, training.sizes),
        epochs=training.epochs,
        steps_per_epoch=steps,
        validation_data=data.validation(training.batch_size) if validates else None,
        callbacks=[*callbacks, keras.callbacks.TerminateOnNaN()],
        shuffle=False,  # `data` shuffles.
        verbose=0,
    ).history
    if not all(math.isfinite(loss) for loss in history["loss"]):
        raise UserError(
            f"training.learning_rate={training.learning_rate}: the loss is no longer a finite number in epoch "
            f"{len(history['loss'])}. Use a smaller training.learning_rate or training.precision=float32."
        )
    best_epoch = keeper.best_epoch if training.keep_weights is KeepWeights.best else training.epochs - 1
    return Fit(
        best_epoch=best_epoch,
        validation_accuracy=history["val_accuracy"][best_epoch] if validates else math.nan,
        images_per_second=progress.images_per_second(),
    )


def _progress(images: int, epochs: int) -> Any:
    """A Keras callback that logs a line an epoch, and at most one each ten seconds within it."""
    import keras

    class Progress(keras.callbacks.Callback):
        def __init__(self) -> None:
            super().__init__()
            self.seconds: list[float] = []

        def on_train_begin(self, logs: dict[str, float] | None = None) -> None:
            self.training_began = self.last_line = time.perf_counter()

        def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
            self.epoch, self.epoch_began = epoch, time.perf_counter()
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
            left = (now - self.training_began) * (epochs / (self.epoch + share) - 1)
            return f"{share * images / elapsed:,.0f} images/s  {left:.0f} s left"

        def images_per_second(self) -> float:
            steady = self.seconds[1:] or self.seconds
            return len(steady) * images / sum(steady)

    return Progress()
