"""Every name under which something is recorded: tags, metrics, params and files of a run, and what they are made of.

Dashboards, snapshots, servers and stores that are there already depend on them: a name that is changed is lost to
all of these.
"""

from __future__ import annotations

import re
from enum import StrEnum

from pipeline.common.condition import Mode


class Recorded(StrEnum):
    """Base of the names that MLflow has of a run."""

    @property
    def column(self) -> str:
        """Its column in a table of runs, where MLflow writes the kind before the name: `tags.head` of `Tag.HEAD`."""
        return f"{type(self).__name__.lower()}s.{self}"


class Tag(Recorded):
    """Tags of a run."""

    HEAD = "head"
    DATASET = "dataset"
    BACKBONE = "backbone"
    STUDY = "study"
    RUN_KEY = "run_key"
    """Digest of what determines the run's result."""
    MADE_WITH = "made_with"
    """Versions and machine of a training; runs of before have none."""
    FUNCTION = "function"
    """What the head computes at the training size; runs with equal ones are of one function."""
    SPLIT = "pairing.split"
    BATCHES = "pairing.batches"
    INITIAL_BACKBONE = "pairing.backbone"
    COMMAND = "command"
    """In a table of runs of one sweep: what was typed; see `SWEEP_COMMAND`."""
    MODEL_DIGEST = "model_digest"
    """Digest of the weights of its recorded model."""
    PRUNED = "pruned"
    """Of a run whose training ended early, because it fell behind others: when and why."""
    STOPPED = "stopped"
    """Of a run whose training ended early, because it got no better: when and why. A whole training all the same."""
    FAILURE = "failure"
    """Of a run that did not finish: why."""
    REPORT = "report"
    """Of a run that is the report on a study: the study's name."""
    LOOKS = "looks"
    """Of such a run: the calls of the study that it was made for, the oldest first."""
    PROBE = "probe"
    """Of a run that probed a model which it did not train: the model, as it was typed."""
    SOURCE = "recorded_as"
    """Of a run on a server: its id in the store that it was copied from."""
    REPLICATED = "delivered"
    """Of a run that a server has: which server, the run's id there, and until which end it was copied."""
    HEARTBEAT = "heartbeat"
    """Of a run on a server: changes while the process at it is alive."""
    COLOR = "mlflow.runColor"
    RUN_NAME = "mlflow.runName"
    DESCRIPTION = "mlflow.note.content"
    """Of an experiment or a run: Markdown that its page shows."""


class Metric(Recorded):
    """Metrics of a run; those of other sizes have the height in pixels as their step."""

    TRAIN_ACCURACY = "train/accuracy"
    TRAIN_LOSS = "train/loss"
    VALIDATION_ACCURACY = "val/accuracy"
    VALIDATION_LOSS = "val/loss"
    KEPT_EPOCH = "train/kept_epoch"
    IMAGES_PER_SECOND = "train/images_per_second"
    TEST_ACCURACY = "test/accuracy"
    TEST_LOSS = "test/loss"
    TEST_BALANCED_ACCURACY = "test/balanced_accuracy"
    TEST_TOP_5_ACCURACY = "test/top_5_accuracy"
    TEST_CALIBRATION_ERROR = "test/calibration_error"
    PARAMETERS = "params/total"
    BACKBONE_PARAMETERS = "params/backbone"
    HEAD_PARAMETERS = "params/head"
    FLOPS = "cost/flops"
    MEMORY_BYTES = "cost/memory_bytes"
    MS_PER_IMAGE = "cost/ms_per_image"
    SIZE_PX = "size/px"
    SEEN_FRACTION = "size/seen_fraction"
    """Share of the feature map that can change the class scores."""
    SEEN_PIXELS = "size/seen_pixels"
    """Share of the image that can; runs of before have none."""
    POINTING = "size/canvas/pointing"
    """Share of images on a canvas whose true class has its peak on the image; of some heads, at larger sizes alone."""


TIMED = frozenset({Metric.IMAGES_PER_SECOND, Metric.MS_PER_IMAGE})
"""What a clock has measured."""


class Param(Recorded):
    """Params of a run that the program reads back; those without a dot are no settings but what they come to."""

    HEAD = "head"
    DATASET = "dataset"
    BACKBONE = "backbone"
    SEED = "seed"
    ARM = "arm"
    QUESTION = "question"
    ASKS_ABOUT = "asks.about"
    ASKS_OVER = "asks.over"
    ASKS_PRIMARY = "asks.primary"
    TRAINING_SIZES = "training.sizes"
    IMAGE_SIZE = "image_size"
    IMAGE_HEIGHT = "image_height"
    IMAGE_WIDTH = "image_width"
    TRAIN_EXAMPLES = "train_examples"
    VALIDATION_EXAMPLES = "validation_examples"
    TEST_EXAMPLES = "test_examples"
    RECEPTIVE_FIELD = "receptive_field"
    """What a cell of the feature map sees of an image, in pixels; runs of before have none."""
    TOTAL_STRIDE = "total_stride"
    """How far apart cells of the feature map lie, in pixels of the image."""


class File(StrEnum):
    """Files of a run, and of a report."""

    CONFIG = "config.yaml"
    PREDICTIONS = "predictions.parquet"
    SIZE_PREDICTIONS = "size_predictions.parquet"
    RECALL_TABLE = "recall_by_class.json"
    SIZE_TABLE = "size_behavior.json"
    SIZE_FIGURE = "size_behavior.png"
    CONFUSION_FIGURE = "confusion_matrix.png"
    MISTAKES_FIGURE = "misclassified.png"
    PROBE_TABLE = "probe.json"
    PROBE_FIGURE = "probe.png"
    IGNORED_FIGURE = "ignored.png"
    ACTIVATION_FIGURE = "class_activation.png"
    LAST_GOOD_MODEL = "last_good.keras"
    REPORT_PAGE = "report.html"
    REPORT_TEXT = "report.md"
    SNAPSHOT = "runs.parquet"


QUESTION = (
    "What should replace the Dense layers after a fully convolutional network, and will it still work when the image "
    "size changes?"
)
"""What is asked where no study asks anything else."""
PAIRING_TAGS = (Tag.SPLIT, Tag.BATCHES, Tag.INITIAL_BACKBONE)
"""In which two runs must agree for their difference to be that of their arms."""
ANSWERS = "answers."
"""Before the name of a condition: the column of what a run got right under it."""
CALIBRATION = "calibration."
"""Before the name of a condition: the column of a run's expected calibration error under it, as it is."""
LABELS = "labels"
"""The column of the classes of a run's test images; runs of before have none."""
RECALL = "recall."
"""Before the name of a class: the column of a run's recall of it."""
INDIFFERENT = (
    *("tracking.", "launch.", "statistics.", "asks.", "output_dir", "question", "rerun", "training.checkpoint_seconds"),
    "backbone.feature_cache_gb",
    *("dataset.data_dir", "dataset.path"),  # What lies there counts by its digest.
    *(Param.IMAGE_HEIGHT, Param.IMAGE_WIDTH),  # The same as `image_size`, in numbers.
    *(Param.RECEPTIVE_FIELD, Param.TOTAL_STRIDE),  # What the backbone's settings come to.
)
"""Settings, or beginnings of their names, that change no run's result: they tell neither runs nor arms apart."""
SWEEP = "sweep."
"""With the name of a sweep behind: tag of each run that belongs to it, trained by it or before."""
SWEEP_RUNS = "sweep_runs."
"""With the name of a sweep behind: tag of each run that it trained, of how many runs it asked for in all."""
SWEEP_COMMAND = "sweep_command."
"""With the name of a sweep behind: tag of each run that it compared, of what was typed; older runs have none."""


def size_accuracy(mode: Mode, way: str = "") -> str:
    """The metric of accuracy by height in pixels, of the model as it is or run in a way."""
    return f"size/{way}/{mode.value}/accuracy" if way else f"size/{mode.value}/accuracy"


def size_calibration(mode: Mode) -> str:
    """The metric of the expected calibration error by height in pixels, of the model as it is; older runs have none."""
    return f"size/{mode.value}/calibration_error"


def ways_in(columns: list[str]) -> list[str]:
    """The ways whose accuracies are among the columns of a table of runs, in their order."""
    pattern = rf"metrics\.size/(\w+)/{Mode.RESIZE.value}/accuracy"
    return [match[1] for column in columns if (match := re.fullmatch(pattern, column))]


def size_tag(height: int) -> str:
    """The tag of the verdict at a height in pixels; sorts by size."""
    return f"size.{height:03d}px"


def size_of_tag(column: str) -> int | None:
    """The height in pixels of the verdict in a column of a table of runs; None if it holds none."""
    match = re.fullmatch(r"tags\.size\.([0-9]{1,5})px", column)
    return int(match[1]) if match else None


def sweep_tag(sweep: str, prefix: str = SWEEP) -> str:
    """The tag of runs that belong to a sweep: of its name what MLflow allows, and a query can name."""
    return prefix + re.sub(r"[^\w. -]", "_", sweep)
