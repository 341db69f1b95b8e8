"""How a model is fitted: the knobs."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import Enum
from typing import ClassVar

from pipeline.common.settings import Settings, is_side
from pipeline.common.size import Size, of_shape
from pipeline.data.facts import DatasetFacts

PIXELS_AT_ONCE = 128 * 28 * 28
"""At most in the images of steps that are executed at once. Starting a step of so many takes no time to speak of."""
PIXELS_OF_ONE_THREAD = 128 * 8 * 8
"""At most in the images of a step that one thread computes faster than several, which wait for each other."""


class Optimizer(Enum):
    """`adamw` is `adam` with `weight_decay`."""

    adam = "adam"
    adamw = "adamw"
    sgd = "sgd"


class Schedule(Enum):
    """How the learning rate goes: `constant`, or from its full value to zero along half a `cosine`."""

    constant = "constant"
    cosine = "cosine"


class KeepWeights(Enum):
    """Which weights a run ends with: of the epoch with the `best` validation accuracy, or of the `last`."""

    best = "best"
    last = "last"


class ClassWeights(Enum):
    """How much an image counts in the loss: as any other (`none`), or the more the fewer its class has (`balanced`)."""

    none = "none"
    balanced = "balanced"


class SizeSchedule(Enum):
    """Which of several sizes a step has: any (`uniform`), or from the smallest to the largest one (`progressive`)."""

    uniform = "uniform"
    progressive = "progressive"


class BatchCounts(Enum):
    """What steps of all sizes have the same number of: `images`, or `pixels`."""

    images = "images"
    pixels = "pixels"


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
class Augmentation(Settings):
    """How training images are changed at random, each time anew; all off by default.

    Attributes:
        flip: Mirror half of the images left to right.
        translate: Shift by up to this share of height and width, in whole pixels; edges are mirrored in.
        rotate: Turn by up to so many degrees, either way.
        zoom: Enlarge or shrink by up to this share.
        operations: Operations of RandAugment that each image gets, each drawn from fourteen; 0 for none.
        magnitude: How strong these are, 0 to 30.
        erase: Share of the images in which a rectangle, 2 to 33 % of the area, gets the image's mean.
        mixup: α of the Beta distribution of the shares in which two images and their labels are mixed; 0 mixes none.
        cutmix: The same for a part of one image pasted into another; beside `mixup`, each image draws one of the two.
    """

    flip: bool = False
    translate: float = 0.0
    rotate: float = 0.0
    zoom: float = 0.0
    operations: int = 0
    magnitude: float = 9.0
    erase: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0

    group: ClassVar[str] = "training.augmentation"

    def __post_init__(self) -> None:
        for name in ("translate", "zoom"):
            self.require(name, 0 <= getattr(self, name) < 1, "must lie in [0, 1)", example=0.1)
        self.require("rotate", 0 <= self.rotate <= 180, "must lie in [0, 180]", example=10)
        self.require("operations", 0 <= self.operations <= 14, "must lie in 0 to 14", example=2)
        self.require("magnitude", 0 <= self.magnitude <= 30, "must lie in [0, 30]", example=9)
        self.require("erase", 0 <= self.erase <= 1, "must lie in [0, 1]", example=0.25)
        for name in ("mixup", "cutmix"):
            self.require(name, 0 <= getattr(self, name) <= 100, "must lie in [0, 100]", example=0.2)

    @property
    def moves(self) -> bool:
        """Whether pixels change their place."""
        return self.flip or max(self.translate, self.rotate, self.zoom) > 0

    @property
    def mixes(self) -> bool:
        """Whether an image may be made of two, and have two labels."""
        return max(self.mixup, self.cutmix) > 0

    @property
    def is_on(self) -> bool:
        """Whether there is any."""
        return self.moves or self.operations > 0 or self.erase > 0 or self.mixes


@dataclass
class FineTuning(Settings):
    """The second stage of a training: behind the head that was trained first, the frozen backbone is trained on too.

    Batch norm stays in inference mode, with its scales and offsets as they are. The optimizer begins anew.

    Attributes:
        epochs: Epochs of it, after `training.epochs`; 0 for none.
        learning_rate: At its start, in place of `training.learning_rate`; it goes as `training.schedule` says.
        from_layer: Name of the backbone's first layer that is trained; null for all layers.
    """

    epochs: int = 0
    learning_rate: float = 1e-4
    from_layer: str | None = None

    group: ClassVar[str] = "training.fine_tuning"

    def __post_init__(self) -> None:
        self.require_at_least("epochs", 0, 5)
        self.require(
            "learning_rate",
            self.learning_rate > 0 and math.isfinite(self.learning_rate),
            "must be a number above 0",
            example=0.0001,
        )


@dataclass
class Training(Settings):
    """How a model is fitted.

    Attributes:
        epochs: Passes over the training images.
        batch_size: Images in a step.
        sizes: Heights in pixels, to one of which each step resizes its images, the same for every head; null trains at
            the size of the images. Validation and test keep that size.
        size_schedule: `uniform` draws a size for each step; `progressive` goes from the smallest to the largest one, an
            equal share of the steps at each.
        batch_counts: `images` has `batch_size` images in every step; `pixels` as many as have the pixels of
            `batch_size` images of the dataset's size, and in each epoch as many images of one size as of another.
        optimizer: `adam`, `adamw` or `sgd`.
        learning_rate: At the start, or after the warm-up.
        momentum: Nesterov momentum of `sgd`.
        weight_decay: Share of the kernels that a step takes away, times the learning rate; with `adamw` or `sgd`.
        schedule: Course of the learning rate, step by step.
        warmup_epochs: First epochs, or a part of one, in which the learning rate rises from zero along a line.
        clip_norm: Largest norm of all gradients together, to which longer ones are shortened; null shortens none. With
            a `strategy`, of those of each replica.
        label_smoothing: Share of each training label that is spread over all classes; validation has none of it.
        class_weights: `balanced` gives each class the same weight in the training loss; `none` each image.
        weight_average: Validate and keep a moving average of the weights, which each step changes by 1 less this
            share; null keeps the weights themselves.
        augmentation: How training images are changed at random.
        fine_tuning: Epochs after these, in which a frozen backbone is trained too.
        keep_weights: `best` on the validation images, or `last`.
        patience: Epochs without a better validation accuracy after which a training ends; null trains all epochs.
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
    size_schedule: SizeSchedule = SizeSchedule.uniform
    batch_counts: BatchCounts = BatchCounts.images
    optimizer: Optimizer = Optimizer.adam
    learning_rate: float = 3e-3
    momentum: float = 0.9
    weight_decay: float = 0.0
    schedule: Schedule = Schedule.cosine
    warmup_epochs: float = 0.0
    clip_norm: float | None = None
    label_smoothing: float = 0.0
    class_weights: ClassWeights = ClassWeights.none
    weight_average: float | None = None
    augmentation: Augmentation = field(default_factory=Augmentation)
    fine_tuning: FineTuning = field(default_factory=FineTuning)
    keep_weights: KeepWeights = KeepWeights.best
    patience: int | None = None
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
        self._check_sizes()
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
        self._check_recipe()

    def _check_sizes(self) -> None:
        self.require(
            "sizes",
            self.sizes is None or (len(self.sizes) > 0 and all(map(is_side, self.sizes))),
            "must be null or hold at least one height, each from 1 to 65,535 px",
            example="[20,24,28,32,40]",
        )
        for name, plain in (("size_schedule", SizeSchedule.uniform), ("batch_counts", BatchCounts.images)):
            self.require(
                name,
                self.sizes is not None or getattr(self, name) is plain,
                "needs training.sizes, which are null",
                f"Use training.{name}={plain.value}, or for example training.sizes=[20,24,28,32,40].",
            )
        self.require(
            "size_schedule",
            self.size_schedule is SizeSchedule.uniform or self.fine_tuning.epochs == 0,
            "cannot be with training.fine_tuning.epochs above 0: the sizes would begin anew in the middle",
            "Use training.size_schedule=uniform, or training.fine_tuning.epochs=0.",
        )
        if self.batch_counts is BatchCounts.pixels:
            self.require(
                "batch_counts",
                self.size_schedule is SizeSchedule.uniform,
                "cannot be with training.size_schedule=progressive: epochs would have different numbers of steps",
                "Use training.batch_counts=images, or training.size_schedule=uniform.",
            )
            self.require(
                "batch_counts",
                self.strategy is Strategy.none,
                f"cannot be with training.strategy={self.strategy.value}, which shares out batches of one length",
                "Use training.batch_counts=images, or training.strategy=none.",
            )

    def _check_recipe(self) -> None:
        self.require(
            "weight_decay",
            self.weight_decay >= 0 and math.isfinite(self.weight_decay),
            "must be a number of at least 0",
            example=0.01,
        )
        self.require(
            "weight_decay",
            self.weight_decay == 0 or self.optimizer is not Optimizer.adam,
            "cannot be with training.optimizer=adam, whose steps have none",
            "Use training.optimizer=adamw or training.optimizer=sgd.",
        )
        self.require(
            "weight_decay",
            self.weight_decay * self.learning_rate < 1,
            f"must be less than 1 / training.learning_rate, {1 / self.learning_rate:.3g}: a step takes their product "
            "away of each kernel",
            example=min(0.05, 0.5 / self.learning_rate),
        )
        self.require(
            "warmup_epochs",
            0 <= self.warmup_epochs < self.epochs,
            f"must lie in [0, {self.epochs}): fewer than training.epochs",
            example=min(1, self.epochs / 2),
        )
        self.require(
            "clip_norm",
            self.clip_norm is None or (self.clip_norm > 0 and math.isfinite(self.clip_norm)),
            "must be null or a number above 0",
            example=1.0,
        )
        self.require("label_smoothing", 0 <= self.label_smoothing < 1, "must lie in [0, 1)", example=0.1)
        self.require(
            "weight_average",
            self.weight_average is None or 0 < self.weight_average < 1,
            "must be null or lie in (0, 1)",
            example=0.99,
        )
        if self.patience is not None:
            self.require_at_least("patience", 1, 3)
            self.require(
                "patience",
                self.strategy is not Strategy.multi_worker,
                "cannot be with training.strategy=multi_worker: each rank would end by itself",
                "Use training.patience=null.",
            )

    @property
    def has_soft_labels(self) -> bool:
        """Whether a training label is a share for each class instead of one class."""
        return self.label_smoothing > 0 or self.augmentation.mixes

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

    def images_of_step(self, native: Size, height: int) -> int:
        """Images in a step of a height, but for the last of an epoch.

        With `BatchCounts.pixels` as many as have the pixels of `batch_size` images of the native size; at least one.
        """
        if self.batch_counts is BatchCounts.images:
            return self.batch_size
        return max(1, round(self.batch_size * math.prod(native) / math.prod(of_shape(native, height))))

    def _pixels_of_step(self, facts: DatasetFacts) -> int:
        """Most pixels in the images of a step."""
        native = facts.image_size
        heights = self.sizes or [native[0]]
        return max(self.images_of_step(native, height) * math.prod(of_shape(native, height)) for height in heights)
