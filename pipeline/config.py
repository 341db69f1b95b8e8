"""The typed schema, its registration with Hydra, and where configurations live."""

from __future__ import annotations

import copy
import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from omegaconf import MISSING, DictConfig, ListConfig, OmegaConf

from pipeline.analysis import Statistics
from pipeline.backbones import BACKBONES, Backbone
from pipeline.data import Dataset
from pipeline.errors import ConfigError, is_side, require, require_plain_name, suggestion
from pipeline.experiment_files import ExperimentFiles
from pipeline.heads import HEADS, Head
from pipeline.image_folder import ImageFolder
from pipeline.launch import Launch, cores
from pipeline.size_probe import SizeProbe
from pipeline.size_transfer import WAY_RULES
from pipeline.tracking.store import DASHBOARD_PORT, Tracking
from pipeline.training import KeepWeights, Strategy, Training

_PACKAGE = Path(__file__).resolve().parent
PROJECT_ROOT = _PACKAGE if (_PACKAGE / "conf").is_dir() else _PACKAGE.parent
"""Holds `conf/` and `experiments/`: the repository, or the package itself once it is installed from a wheel."""
CONFIG_DIR = PROJECT_ROOT / "conf"
GROUPS = ("dataset", "backbone", "head", "training", "size_probe", "tracking", "launch", "arm", "study")
"""Whose options are files, chosen with GROUP=OPTION."""
T = TypeVar("T")


class InOutputDir:
    """What has a setting `output_dir`."""

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
        rerun: Train again what was trained before. Otherwise a finished run of the same study, settings, code, data and
            versions of TensorFlow and Keras counts as done, and an interrupted one is gone on with.
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
    rerun: bool = False
    output_dir: str = "outputs"

    def __post_init__(self) -> None:
        require(0 <= self.seed < 2**32, "seed", self.seed, "must lie in [0, 2³²)", "Use for example seed=0.")
        require_plain_name("study", self.study)
        require_plain_name("arm", self.arm)
        require(self.output_dir != "", "output_dir", "", "must name a directory", "Use for example output_dir=outputs.")
        require(
            self.training.keep_weights is KeepWeights.last or self.dataset.validation_fraction > 0,
            "training.keep_weights",
            self.training.keep_weights.value,
            "needs validation images to choose by, and dataset.validation_fraction is 0",
            "Use training.keep_weights=last or dataset.validation_fraction=0.1.",
        )
        if self.training.prune:
            self._check_prune()
        require(
            self.head.takes_any_size or not self.dataset.native_size,
            "dataset.native_size",
            self.dataset.native_size,
            f"head={self.head.name} is built for images of one size",
            f"Use one that takes any size (head={' or '.join(head.name for head in HEADS if head.takes_any_size)}) or "
            "dataset.native_size=false.",
        )
        require(
            self.training.strategy is Strategy.none or not self.dataset.native_size,
            "training.strategy",
            self.training.strategy.value,
            "shares every batch out, and with dataset.native_size=true a batch may hold one image",
            "Use training.strategy=none or dataset.native_size=false.",
        )
        require(
            self.training.sizes is None or not self.dataset.native_size,
            "training.sizes",
            self.training.sizes,
            "resizes every batch, and with dataset.native_size=true images keep their sizes",
            "Use training.sizes=null or dataset.native_size=false.",
        )

    def _check_prune(self) -> None:
        for key, value, wrong, why in (
            ("dataset.validation_fraction", 0, self.dataset.validation_fraction == 0, "it goes by validation accuracy"),
            ("study", self.study, self.study is not None, "a study compares whole trainings"),
            (
                "training.strategy",
                Strategy.multi_worker.value,
                self.training.strategy is Strategy.multi_worker,
                "only one rank would end",
            ),
        ):
            require(
                not wrong,
                "training.prune",
                self.training.prune,
                f"cannot be with {key}={value}: {why}",
                "Use training.prune=false.",
            )


@dataclass
class Comparison(InOutputDir):
    """Which runs are compared.

    Attributes:
        study: Name of the study; its newest call in each experiment is compared.
        sweep: An older call, by the tag `sweep` of its runs; null for the newest.
        snapshot: File `runs.parquet` that an earlier comparison wrote; it is compared instead, and no store is needed.
        tracking: Where the results were recorded.
        statistics: How sure a verdict has to be.
        output_dir: As it was for the runs; the report is written there.
    """

    study: str | None = None
    sweep: str | None = None
    snapshot: str | None = None
    tracking: Tracking = field(default_factory=Tracking)
    statistics: Statistics = field(default_factory=Statistics)
    output_dir: str = "outputs"

    def __post_init__(self) -> None:
        require(
            (self.study is None) != (self.snapshot is None),
            "study",
            self.study,
            "is needed, or else snapshot=FILE, and not both",
            "Use for example study=heads.",
        )
        require_plain_name("study", self.study)
        require_plain_name("sweep", self.sweep)


@dataclass
class Conversion(InOutputDir):
    """Which trained model is converted, and how.

    Attributes:
        model: Path of a `.keras` file, or an MLflow model URI.
        way: One of `pipeline.size_transfer`; null prints those that the model allows.
        output: The `.keras` file to write; null for one named after model and way in the working directory.
        image_size: [height, width] in pixels of the training images, where neither the model nor its run says.
        images: A `.npy` file of images (N, H, W, C) or a directory of image files, to prove the conversion on beside
            random images; null for these alone.
        tolerance: Largest difference of the answers at the training size, relative to the largest answer (but at least
            to 1).
        tracking: Where the model was recorded, if an MLflow URI names it.
        output_dir: As it was for the run that recorded it.
    """

    model: str = MISSING
    way: str | None = None
    output: str | None = None
    image_size: list[int] | None = None
    images: str | None = None
    tolerance: float = 1e-5
    tracking: Tracking = field(default_factory=Tracking)
    output_dir: str = "outputs"

    def __post_init__(self) -> None:
        require(
            self.way is None or self.way in WAY_RULES,
            "way",
            self.way,
            f"there is no such way; there are {', '.join(WAY_RULES)}",
            suggestion(self.way or "", WAY_RULES) or "Leave it out to see which the model allows.",
        )
        require(
            self.image_size is None or (len(self.image_size) == 2 and all(map(is_side, self.image_size))),
            "image_size",
            self.image_size,
            "must be null or [height, width], each from 1 to 65,535 px",
            "Use for example image_size=[28,28].",
        )
        require(
            0 < self.tolerance < 1, "tolerance", self.tolerance, "must lie in (0, 1)", "Use for example tolerance=1e-5."
        )


@dataclass
class Sync(InOutputDir):
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
        require_plain_name("study", self.study)
        require(
            self.tracking.is_server,
            "tracking.uri",
            self.tracking.uri,
            "must be the address of an MLflow server",
            "Use for example tracking.uri=http://127.0.0.1:5000.",
        )


@dataclass
class Dashboard(InOutputDir):
    """How the dashboard is served.

    Attributes:
        port: On 127.0.0.1.
        output_dir: As it was for the runs that are to be seen.
    """

    port: int = DASHBOARD_PORT
    output_dir: str = "outputs"

    def __post_init__(self) -> None:
        require(1 <= self.port <= 65535, "port", self.port, "must lie in [1, 65535]", "Use for example port=5000.")


def absolute(path: str) -> Path:
    """The absolute path, `~` expanded."""
    return Path(path).expanduser().absolute()


def register() -> None:
    """Makes the schema and the project's root known to Hydra. Calling it again changes nothing."""
    store = ConfigStore.instance()
    # Under schema/, not in the groups themselves, where they would show up as selectable options.
    store.store(group="schema", name="config", node=Config)
    store.store(group="schema", name="comparison", node=Comparison)
    store.store(group="schema", name="conversion", node=Conversion)
    store.store(group="schema", name="sync", node=Sync)
    store.store(group="schema", name="dashboard", node=Dashboard)
    store.store(group="schema", name="dataset", node=Dataset)
    store.store(group="schema", name="image_folder", node=ImageFolder)
    for group, classes in (("backbone", BACKBONES), ("head", HEADS)):
        for option in classes:
            store.store(group=f"schema/{group}", name=option.name, node=option)
    # Hydra copies the whole store for each group that it looks into: for --help a hundred times, which takes a second.
    # It need not, since what it loads from the store is a copy anyway.
    ConfigStore.__deepcopy__ = lambda self, memo: self  # type: ignore[attr-defined]
    Plugins.instance().register(ExperimentFiles)
    OmegaConf.register_new_resolver("project_root", lambda: str(PROJECT_ROOT), replace=True)
    # A worker finds what the launching process has resolved, whatever its own working directory is.
    OmegaConf.register_new_resolver("absolute", lambda path: str(absolute(path)), replace=True, use_cache=True)
    OmegaConf.register_new_resolver("cores", cores, replace=True)
    OmegaConf.register_new_resolver(
        "at_most", lambda most, number: most if number is None else min(most, number), replace=True
    )
    OmegaConf.register_new_resolver("share_of_cores", lambda workers: max(1, cores() // max(1, workers)), replace=True)


def to_typed(config: DictConfig, schema: type[T]) -> T:
    """Turns what Hydra composed into the typed object of class `schema`, checking every value on the way.

    Raises:
        ConfigError: A value is out of range, missing, or under a name that does not exist.
    """
    for key in sorted(OmegaConf.missing_keys(config)):
        raise ConfigError(key, "???", "has no value", f"Give one, as in {key}=VALUE.")
    _refuse_unknown(config, "")
    resolved = copy.deepcopy(config)
    _check_types(resolved, "")
    typed = OmegaConf.to_object(resolved)
    assert isinstance(typed, schema)
    return typed


def _refuse_unknown(config: DictConfig, prefix: str) -> None:
    """Refuses what `+key=value` can add even to a typed configuration."""
    known = [field.name for field in dataclasses.fields(OmegaConf.get_type(config))]  # type: ignore[arg-type]
    for key, value in config.items_ex(resolve=False):
        name = prefix + str(key)
        if key not in known:
            raise unknown_key(name, value, known)
        if isinstance(value, DictConfig) and dataclasses.is_dataclass(OmegaConf.get_type(value)):
            _refuse_unknown(value, f"{name}.")


def _check_types(config: DictConfig, prefix: str) -> None:
    """Refuses what OmegaConf does not look for: lists in lists, and references to values of another type."""
    for key, value in config.items():
        name = prefix + str(key)
        if OmegaConf.is_interpolation(config, str(key)):
            config[key] = value  # Which OmegaConf does look at.
        if isinstance(value, DictConfig):
            _check_types(value, f"{name}.")
        elif isinstance(value, ListConfig):
            require(
                not any(isinstance(item, ListConfig | DictConfig) for item in value),
                name,
                value,
                "must be a list of single values",
                f"Use for example {name}=[1,2].",
            )


def unknown_key(key: str, value: Any, known: list[str]) -> ConfigError:
    """The error for a setting that does not exist, naming those that do."""
    parent, _, name = key.rpartition(".")
    near = suggestion(name, known)
    prefix = f"{parent}." if parent else ""
    return ConfigError(
        key,
        value,
        "there is no such setting",
        near.replace("mean ", f"mean {prefix}") if near else f"{parent or 'The top level'} has {', '.join(known)}.",
    )


register()  # Already now: a worker that a launcher starts composes its run before any function of ours is called.
