"""How Keras fits a model: the knobs, the devices, the optimizer, the progress line."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline import callbacks, checkpoint, multi_worker
from pipeline.errors import is_side, require, require_at_least
from pipeline.fused import fused_adam, fused_batch_norm
from pipeline.heads import of_shape

if TYPE_CHECKING:
    import keras
    import tensorflow as tf

    from pipeline.data import Data, DatasetFacts

log = logging.getLogger("pipeline")


PIXELS_AT_ONCE = 128 * 28 * 28
"""At most in the images of steps that are executed at once. Starting a step of so many takes no time to speak of."""
PIXELS_OF_ONE_THREAD = 128 * 8 * 8
"""At most in the images of a step that one thread computes faster than several, which wait for each other."""


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
    """`tf.distribute` strategy: `none`, `mirrored` over all GPUs of this machine, or `multi_worker` over machines."""

    none = "none"
    mirrored = "mirrored"
    multi_worker = "multi_worker"


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
        steps_per_execution: Steps that TensorFlow executes before Python looks at the loss, and at Ctrl-C; divides the
            steps of an epoch. null: 1, or more where the images are so small that starting a step takes long; with a
            `strategy`, 1.
        prune: In a sweep, end a training that is behind the median of those before it; see `pipeline.pruning`.
        checkpoint_seconds: Least time between two saved states, each after an epoch, from which an interrupted run goes
            on; the newest epoch's is saved in any case at the end, on Ctrl-C and on SIGTERM. null saves none.
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
    steps_per_execution: int | None = None
    prune: bool = False
    checkpoint_seconds: float | None = 30.0

    def __post_init__(self) -> None:
        require_at_least(1, "training.epochs", self.epochs, 5)
        require_at_least(1, "training.batch_size", self.batch_size, 128)
        if self.steps_per_execution is not None:
            require_at_least(1, "training.steps_per_execution", self.steps_per_execution, 1)
            require(
                self.steps_per_execution == 1 or self.strategy is Strategy.none,
                "training.steps_per_execution",
                self.steps_per_execution,
                f"must be 1 with training.strategy={self.strategy.value}",
                "Use training.steps_per_execution=null.",
            )
        require(
            self.sizes is None or (len(self.sizes) > 0 and all(map(is_side, self.sizes))),
            "training.sizes",
            self.sizes,
            "must be null or hold at least one height, each from 1 to 65,535 px",
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
            self.checkpoint_seconds is None or self.checkpoint_seconds >= 0,
            "training.checkpoint_seconds",
            self.checkpoint_seconds,
            "must be null or at least 0",
            "Use for example training.checkpoint_seconds=30.",
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
        if self.strategy is Strategy.multi_worker:
            return multi_worker.connect()
        return tf.distribute.get_strategy()

    def steps_at_once(self, steps: int, facts: DatasetFacts) -> int:
        """How many of the `steps` of an epoch TensorFlow executes at once, for the images of a dataset.

        Raises:
            ConfigError: `steps_per_execution` does not divide them: Keras would go on into the next epoch.
        """
        divisors = [count for count in range(1, steps + 1) if steps % count == 0]
        if self.steps_per_execution is not None:
            require(
                self.steps_per_execution in divisors,
                "training.steps_per_execution",
                self.steps_per_execution,
                f"must divide the {steps} steps of an epoch",
                f"Use one of {', '.join(map(str, divisors))}, or null.",
            )
            return self.steps_per_execution
        if self.strategy is not Strategy.none or facts.natural:
            return 1
        pixels = self._pixels_of_step(facts)
        return max(count for count in divisors if count == 1 or count * pixels <= PIXELS_AT_ONCE)

    def wants_one_thread(self, facts: DatasetFacts) -> bool:
        """Whether the images of a dataset are so small that a step is computed fastest by one thread."""
        return not facts.natural and self._pixels_of_step(facts) <= PIXELS_OF_ONE_THREAD

    def _pixels_of_step(self, facts: DatasetFacts) -> int:
        """Pixels in the images of a step, at the largest size that is trained at."""
        heights = self.sizes or [facts.image_size[0]]
        return self.batch_size * max(math.prod(of_shape(facts.image_size, height)) for height in heights)

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
            compiles (over that one if it is the only one). NaN if nothing was left to train after an interruption.
        pruned: Why it ended before its last epoch; an empty text if it did not.
    """

    best_epoch: int
    validation_accuracy: float
    images_per_second: float
    pruned: str = ""


@multi_worker.lost_ranks_told()
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
    import keras

    multi_worker.check_last_step(len(data.train_indices), training.batch_size)
    steps = data.steps_per_epoch(training.batch_size)
    model.compile(
        optimizer=training.build_optimizer(steps * training.epochs),
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
