"""How a model is fitted: the knobs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum
from typing import ClassVar

from pipeline.common.settings import Settings, is_side
from pipeline.common.size import of_shape
from pipeline.data.facts import DatasetFacts

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
class Training(Settings):
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
        prune: In a sweep, end a training that is behind the median of those before it; see `pipeline.training.pruning`.
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

    group: ClassVar[str] = "training"

    def __post_init__(self) -> None:
        self.require_at_least("epochs", 1, 5)
        self.require_at_least("batch_size", 1, 128)
        if self.steps_per_execution is not None:
            self.require_at_least("steps_per_execution", 1, 1)
            self.require(
                "steps_per_execution",
                self.steps_per_execution == 1 or self.strategy is Strategy.none,
                f"must be 1 with training.strategy={self.strategy.value}",
                "Use training.steps_per_execution=null.",
            )
        self.require(
            "sizes",
            self.sizes is None or (len(self.sizes) > 0 and all(map(is_side, self.sizes))),
            "must be null or hold at least one height, each from 1 to 65,535 px",
            example="[20,24,28,32,40]",
        )
        self.require(
            "learning_rate",
            self.learning_rate > 0 and math.isfinite(self.learning_rate),
            "must be a number above 0",
            example=0.003,
        )
        self.require(
            "checkpoint_seconds",
            self.checkpoint_seconds is None or self.checkpoint_seconds >= 0,
            "must be null or at least 0",
            example=30,
        )
        self.require("momentum", 0 <= self.momentum < 1, "must lie in [0, 1)", example=0.9)

    def steps_at_once(self, steps: int, facts: DatasetFacts) -> int:
        """How many of the `steps` of an epoch TensorFlow executes at once, for the images of a dataset.

        Raises:
            ConfigError: `steps_per_execution` does not divide them: Keras would go on into the next epoch.
        """
        divisors = [count for count in range(1, steps + 1) if steps % count == 0]
        if self.steps_per_execution is not None:
            self.require(
                "steps_per_execution",
                self.steps_per_execution in divisors,
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
