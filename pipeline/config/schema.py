"""The typed schema of each command."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import MISSING

from pipeline.common.errors import suggestion
from pipeline.common.settings import PLAIN_NAME, Settings, is_plain_name, is_side
from pipeline.comparison.settings import Asks, Statistics
from pipeline.config.launch import Launch
from pipeline.config.paths import absolute
from pipeline.data.settings import Dataset
from pipeline.heads import HEADS
from pipeline.heads.base import Head
from pipeline.models.backbones.base import Backbone
from pipeline.other_sizes.settings import Format, SizeProbe
from pipeline.other_sizes.ways import ALL_WAYS, REFITS
from pipeline.tracking.settings import DASHBOARD_PORT, Tracking
from pipeline.training.settings import KeepWeights, Strategy, Training


class InOutputDir(Settings):
    """Settings with an `output_dir`."""

    output_dir: str

    @property
    def output_path(self) -> Path:
        """The directory, absolute."""
        return absolute(self.output_dir)


@dataclass
class Config(InOutputDir):
    """One run, fully described.

    Attributes:
        dataset: What is trained and tested on.
        backbone: The fully convolutional extractor.
        head: What collapses its feature map into logits.
        training: How the model is fitted.
        size_probe: Which other image sizes are tried.
        tracking: Where results are recorded.
        launch: Where the runs of a study are computed.
        statistics: How sure the comparison at the end of a study has to be.
        seed: Draws the validation part, the order of the images and the initial weights.
        arm: Name of the settings that a study compares, where it compares more than heads alone.
        study: Name of the study that the run belongs to.
        question: What the study asks, for the dashboard and the report.
        asks: What the question is about, so that the report answers it.
        rerun: Train again what has finished before. Otherwise a finished run of the same study, settings, code, data
            and versions of TensorFlow and Keras counts as done. An interrupted one is gone on with in any case.
        output_dir: Directory of everything that is written: the MLflow store, caches, Hydra's logs.
    """

    dataset: Dataset = MISSING
    backbone: Backbone = MISSING
    head: Head = MISSING
    training: Training = field(default_factory=Training)
    size_probe: SizeProbe = field(default_factory=SizeProbe)
    tracking: Tracking = field(default_factory=Tracking)
    launch: Launch = field(default_factory=Launch)
    statistics: Statistics = field(default_factory=Statistics)
    seed: int = 0
    arm: str | None = None
    study: str | None = None
    question: str | None = None
    asks: Asks = field(default_factory=Asks)
    rerun: bool = False
    output_dir: str = "outputs"

    def __post_init__(self) -> None:
        self.require("seed", 0 <= self.seed < 2**32, "must lie in [0, 2³²)", example=0)
        self.require_plain_name("study")
        self.require_plain_name("arm")
        self.require("output_dir", self.output_dir != "", "must name a directory", example="outputs")
        self.tracking.require_place(self.output_path)
        self.training.require(
            "keep_weights",
            self.training.keep_weights is KeepWeights.last or self.dataset.validation_fraction > 0,
            "needs validation images to choose by, and dataset.validation_fraction is 0",
            "Use training.keep_weights=last or dataset.validation_fraction=0.1.",
        )
        self.training.require(
            "patience",
            self.training.patience is None or self.dataset.validation_fraction > 0,
            "needs validation images to go by, and dataset.validation_fraction is 0",
            "Use training.patience=null or dataset.validation_fraction=0.1.",
        )
        self._check_fine_tuning()
        if self.training.prune:
            self._check_prune()
        any_size = " or ".join(head.name for head in HEADS if head().takes_any_size)
        self.dataset.require(
            "native_size",
            self.head.takes_any_size or not self.dataset.native_size,
            f"head={self.head.name} is built for images of one size",
            f"Use one that takes any size (head={any_size}) or dataset.native_size=false.",
        )
        self.training.require(
            "strategy",
            self.training.strategy is Strategy.none or not self.dataset.native_size,
            "shares every batch out, and with dataset.native_size=true a batch may hold one image",
            "Use training.strategy=none or dataset.native_size=false.",
        )
        self.training.require(
            "sizes",
            self.training.sizes is None or not self.dataset.native_size,
            "resizes every batch, and with dataset.native_size=true images keep their sizes",
            "Use training.sizes=null or dataset.native_size=false.",
        )

    def _check_fine_tuning(self) -> None:
        tuning = self.training.fine_tuning
        if tuning.epochs == 0:
            return
        tuning.require(
            "epochs",
            not self.backbone.trainable,
            "comes after epochs in which the backbone is frozen, and backbone.trainable is true",
            "Use backbone.trainable=false, or training.fine_tuning.epochs=0.",
        )
        tuning.require(
            "epochs",
            self.training.strategy is not Strategy.multi_worker,
            "cannot be with training.strategy=multi_worker",
            "Use training.fine_tuning.epochs=0.",
        )

    def _check_prune(self) -> None:
        for key, value, wrong, why in (
            ("dataset.validation_fraction", 0, self.dataset.validation_fraction == 0, "it goes by validation accuracy"),
            ("study", self.study, self.study is not None, "a study compares whole trainings"),
            (
                *(
                    "training.fine_tuning.epochs",
                    self.training.fine_tuning.epochs,
                    self.training.fine_tuning.epochs > 0,
                ),
                "a training in two stages has none to be compared with",
            ),
            (
                "training.strategy",
                Strategy.multi_worker.value,
                self.training.strategy is Strategy.multi_worker,
                "only one rank would end",
            ),
        ):
            rule = f"cannot be with {key}={value}: {why}"
            self.training.require("prune", not wrong, rule, "Use training.prune=false.")


@dataclass
class CompareConfig(InOutputDir):
    """Which runs are compared.

    Attributes:
        study: Name of the study, or a list of names; its newest call in each experiment is compared. The runs of
            several studies are compared with each other.
        sweep: An older call, by the tag `sweep.NAME` of its runs; null for the newest.
        snapshot: File `runs.parquet` that an earlier comparison wrote, or a list of files; it is compared instead, and
            no store is needed.
        tracking: Where the results were recorded.
        statistics: How sure a verdict has to be.
        asks: What the question is about; null for what the runs have recorded of it.
        output_dir: As it was for the runs; the report is written there.
    """

    # OmegaConf has no union of a text and a list; __post_init__ checks them.
    study: Any = None
    sweep: str | None = None
    snapshot: Any = None
    tracking: Tracking = field(default_factory=Tracking)
    statistics: Statistics = field(default_factory=Statistics)
    asks: Asks = field(default_factory=Asks)
    output_dir: str = "outputs"

    def __post_init__(self) -> None:
        self.require(
            "study",
            (self.study is None) != (self.snapshot is None),
            "is needed, or else snapshot=FILE, and not both",
            example="heads",
        )
        self.require(
            "study",
            all(map(is_plain_name, self.studies)),
            f"{PLAIN_NAME}, or a list of these",
            example="heads",
        )
        self.require_plain_name("sweep")
        self.require(
            "sweep",
            self.sweep is None or len(self.studies) == 1,
            "is a call of one study",
            "Leave it out to compare the newest calls of several studies.",
        )

    @property
    def studies(self) -> list[str]:
        """The names of the studies."""
        return _as_list(self.study)

    @property
    def snapshots(self) -> list[str]:
        """The files."""
        return _as_list(self.snapshot)


def _as_list(value: Any) -> list[str]:
    """A list, or one value, or none, as texts."""
    return [] if value is None else [str(item) for item in (value if isinstance(value, list) else [value])]


@dataclass
class ConvertConfig(InOutputDir):
    """Which trained model is converted, and how.

    Attributes:
        model: Path of a `.keras` file, or an MLflow model URI.
        way: One of `pipeline.other_sizes.ways`; null prints those that the model allows, or exports the model as it is.
        format: In what the model is written; others than `keras` are run in their own runtime, and held against Keras.
        output: The file to write, or the directory of a SavedModel; null for one named after model and way in the
            working directory.
        image_size: [height, width] in pixels of the training images, where neither the model nor its run says.
        images: A `.npy` file of images (N, H, W, C) or a directory of image files, to prove the conversion on beside
            random images; null for these alone. For a way that fits weights again, a directory with a folder a class.
        sizes: Heights in pixels that a way that fits weights again does so for; widths keep the shape of the training
            images.
        tolerance: Largest difference of the answers, relative to the largest answer (but at least to 1).
        tracking: Where the model was recorded, if an MLflow URI names it.
        output_dir: As it was for the run that recorded it.
    """

    model: str = MISSING
    way: str | None = None
    format: Format = Format.keras
    output: str | None = None
    image_size: list[int] | None = None
    images: str | None = None
    sizes: list[int] | None = None
    tolerance: float = 1e-5
    tracking: Tracking = field(default_factory=Tracking)
    output_dir: str = "outputs"

    def __post_init__(self) -> None:
        names = [way.name for way in ALL_WAYS]
        self.require(
            "way",
            self.way is None or self.way in names,
            f"there is no such way; there are {', '.join(names)}",
            suggestion(self.way or "", names) or "Leave it out to see which the model allows.",
        )
        self._check_refit()
        self.require_image_size("image_size", "[28,28]")
        self.require("tolerance", 0 < self.tolerance < 1, "must lie in (0, 1)", example=1e-5)

    def _check_refit(self) -> None:
        refit = next((way for way in REFITS if way.name == self.way), None)
        if refit is None:
            fitting = " or ".join(way.name for way in REFITS)
            self.require("sizes", self.sizes is None, f"is for way={fitting} alone", "Leave it out.")
            return
        self.require(
            "format",
            self.format is Format.keras,
            f"way={self.way} writes a .keras file",
            "Leave it out, and export that file with a second command.",
        )
        sizes = self.sizes or []
        self.require(
            "sizes",
            (len(sizes) > 0 if refit.for_all_sizes else len(sizes) == 1) and all(map(is_side, sizes)),
            f"way={self.way} needs {'heights' if refit.for_all_sizes else 'one height'}, from 1 to 65,535 px",
            example="[56]",
        )
        self.require(
            "images",
            self.images is not None,
            f"way={self.way} needs training images",
            "Give a directory with a folder of image files for each class, images=DIR.",
        )


@dataclass
class ProbeConfig(InOutputDir):
    """Which trained model is judged at other image sizes, and on which images.

    Attributes:
        model: Path of a `.keras` file, or an MLflow model URI.
        images: A directory with a folder of image files for each class, `DIR/CLASS/*.png`; the classes are the model's
            outputs in alphabetical order, or by name where the model's record names them.
        dataset: In place of `images`, a dataset whose test split is used.
        image_size: [height, width] in pixels of the training images, where neither the model nor its run says.
        scale: The model gets pixels · scale + offset; 1/255 = 0.003922 if it was trained on numbers from 0 to 1.
        offset: See `scale`.
        size_probe: Which sizes, how many images, which ways.
        tracking: Where the model was recorded, if an MLflow URI names it, and where the results are.
        training: Nothing is trained; a dataset's file may choose an option of this group.
        output_dir: As it was for the run that recorded the model; results go there too.
    """

    model: str = MISSING
    images: str | None = None
    dataset: Dataset | None = None
    image_size: list[int] | None = None
    scale: float = 1.0
    offset: float = 0.0
    size_probe: SizeProbe = field(default_factory=SizeProbe)
    tracking: Tracking = field(default_factory=Tracking)
    training: Training | None = None
    output_dir: str = "outputs"

    def __post_init__(self) -> None:
        self.require(
            "images",
            (self.images is None) != (self.dataset is None),
            "is needed, or else dataset=NAME, and not both",
            "Use images=DIR with a folder of image files for each class in DIR.",
        )
        self.require_image_size("image_size", "[28,28]")
        self.require(
            "scale", self.scale != 0 and math.isfinite(self.scale), "must be a finite number other than 0", example=1
        )
        self.require("offset", math.isfinite(self.offset), "must be a finite number", example=0)


@dataclass
class SyncConfig(InOutputDir):
    """Which recorded runs are brought to a tracking server.

    Attributes:
        study: Name of a study whose runs alone are copied; null for all runs.
        tracking: The server.
        statistics: How sure a verdict on a study has to be.
        output_dir: Where the runs are recorded.
    """

    study: str | None = None
    tracking: Tracking = field(default_factory=Tracking)
    statistics: Statistics = field(default_factory=Statistics)
    output_dir: str = "outputs"

    def __post_init__(self) -> None:
        self.require_plain_name("study")
        self.tracking.require(
            "uri",
            self.tracking.is_server,
            "must be the address of an MLflow server",
            "Use for example tracking.uri=http://127.0.0.1:5000.",
        )


@dataclass
class DashboardConfig(InOutputDir):
    """How the dashboard is served.

    Attributes:
        port: On 127.0.0.1.
        open_browser: Show it in a browser; null for where there is one and a person is at the terminal.
        tracking: The store to show, unless it is a server, which has a dashboard of its own.
        output_dir: As it was for the runs that are to be seen.
    """

    port: int = DASHBOARD_PORT
    open_browser: bool | None = None
    tracking: Tracking = field(default_factory=Tracking)
    output_dir: str = "outputs"

    def __post_init__(self) -> None:
        self.tracking.require(
            "uri", not self.tracking.is_server, "has a dashboard of its own", "Open this address in a browser."
        )
        self.require("port", 1 <= self.port <= 65535, "must lie in [1, 65535]", example=5000)
