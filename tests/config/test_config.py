"""Every file under conf/ and experiments/ composes; what cannot work is refused with a way out."""

from __future__ import annotations

import dataclasses
import zipfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from pipeline.cli.messages import explain
from pipeline.common.errors import UserError
from pipeline.config import CONFIG_DIR, Config
from pipeline.config.paths import EXPERIMENTS_DIR
from pipeline.heads import HEADS
from pipeline.heads.base import Head
from pipeline.models.backbones import BACKBONES
from pipeline.models.backbones.base import Backbone
from tests.conftest import ROOT, composed, typed

OPTIONS = sorted(path for path in CONFIG_DIR.glob("*/*.yaml"))
STUDIES = sorted((ROOT / "experiments" / "study").glob("*.yaml"))
ARMS = sorted((ROOT / "experiments" / "arm").glob("*.yaml"))
PLUGINS = {"launch/ray": "hydra_ray_launcher", "launch/slurm": "hydra_submitit_launcher"}
NEEDS = {
    "backbone/from_model": ["backbone.path=my.keras"],
    "dataset/tfds": ["dataset.name=mnist"],
    "dataset/image_folder": ["dataset.path=."],
    "tracking/server": ["tracking.uri=http://127.0.0.1:5000"],
    **{
        option: ["backbone.path=my.keras"]
        for option in ("study/transfer", "arm/frozen", "arm/fine_tuned", "arm/from_scratch")
    },
}


@pytest.fixture(autouse=True)
def in_a_directory_with_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Composing a configuration looks at the file's format alone."""
    zipfile.ZipFile(tmp_path / "my.keras", "w").close()
    (tmp_path / "cut_short.keras").write_bytes((tmp_path / "my.keras").read_bytes()[:-1])
    (tmp_path / "my.h5").touch()
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("path", OPTIONS, ids=lambda path: f"{path.parent.name}/{path.stem}")
@pytest.mark.long
def test_every_option_composes_and_opens_with_its_command(path: Path) -> None:
    group, option = path.parent.name, path.stem
    if (plugin := PLUGINS.get(f"{group}/{option}")) and find_spec(f"hydra_plugins.{plugin}") is None:
        pytest.skip(f"needs pip install '.[{option}]'")
    config = typed(f"{group}={option}", *NEEDS.get(f"{group}/{option}", []))
    assert dataclasses.is_dataclass(getattr(config, group))
    assert path.read_text().removeprefix("# @package _global_\n").startswith("# python -m pipeline.train ")


@pytest.mark.long
@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_every_study_composes_with_each_of_its_choices(path: Path) -> None:
    text = path.read_text()
    for heading in ("Command", "Run time", "Expected"):
        assert f"# {heading}" in text
    study = yaml.safe_load(text)
    assert study["question"].endswith("?")
    for key, values in study["hydra"]["sweeper"]["params"].items():
        override = OverridesParser.create().parse_override(f"{key}={values}")
        for value in override.sweep_string_iterator() if override.is_sweep_override() else [str(values)]:
            needed = NEEDS.get(f"study/{path.stem}", [])
            assert typed(f"study={path.stem}", f"{key}={value}", *needed).study == path.stem


@pytest.mark.parametrize("path", ARMS, ids=lambda path: path.stem)
def test_every_arm_composes_and_says_what_it_is(path: Path) -> None:
    assert path.read_text().startswith("# @package _global_\n# ")
    assert typed(f"arm={path.stem}", *NEEDS.get(f"arm/{path.stem}", [])).arm == path.stem


@pytest.mark.long
def test_arms_of_matched_capacity_have_matched_capacity() -> None:
    """On small_fcn at 28 px: a map of 7×7×64, 10 classes."""
    arms = ("flatten", "flatten_dropout", "average_pool_matched", "gap_matched")
    parameters = {arm: typed(f"arm={arm}").head.build((7, 7, 64), 10).count_params() for arm in arms}
    assert parameters == {
        "flatten": 7 * 7 * 64 * 10 + 10,  # 31,370
        "flatten_dropout": 7 * 7 * 64 * 10 + 10,
        "average_pool_matched": 64 * 418 + 418 + 418 * 10 + 10,  # 31,360
        "gap_matched": 64 * 418 + 418 + 418 * 10 + 10,
    }


@pytest.mark.parametrize("option", [*HEADS, *BACKBONES], ids=lambda option: option.name)
def test_every_class_has_its_option(option: type[Head] | type[Backbone]) -> None:
    group = "head" if option in HEADS else "backbone"
    config = typed(f"{group}={option.name}", *NEEDS.get(f"{group}/{option.name}", []))
    assert type(getattr(config, group)) is option


def _default(group: str) -> object:
    """What the class of the configuration has for a group of which nothing is said."""
    factory = Config.__dataclass_fields__[group].default_factory
    assert factory is not dataclasses.MISSING
    return factory()


@pytest.mark.long
def test_yaml_defaults_are_the_classes_defaults() -> None:
    """So that a reader of either one knows both."""
    for group, options in (("head", HEADS), ("backbone", BACKBONES)):
        for option in options:
            needs = NEEDS.get(f"{group}/{option.name}", [])
            required: dict[str, Any] = dict(need.removeprefix(f"{group}.").split("=") for need in needs)
            assert getattr(typed(f"{group}={option.name}", *needs), group) == option(**required)
    assert typed("training=default").training == _default("training")
    assert typed().size_probe == _default("size_probe")
    assert typed().tracking == _default("tracking")


@pytest.mark.long
def test_digits_chooses_its_training_and_the_command_line_wins() -> None:
    assert (typed().training.epochs, typed().training.batch_size) == (10, 32)
    assert typed("dataset=fashion_mnist").training.epochs == 5
    assert typed("training=default").training.epochs == 5
    assert typed("training.epochs=7").training.epochs == 7


def test_a_part_of_a_split_is_given_in_quotes() -> None:
    """As the messages say."""
    assert typed("dataset.train_split='train[:80%]'").dataset.train_split == "train[:80%]"


def _options(group: str) -> str:
    """The options of a group, as a message lists them."""
    files = [*(CONFIG_DIR / group).glob("*.yaml"), *(EXPERIMENTS_DIR / group).glob("*.yaml")]
    return ", ".join(sorted(path.stem for path in files))


WRONG = [
    # what is typed, what the message says
    (["head=global_avg_pool"], f"head=global_avg_pool: there is no such option. Use one of {_options('head')}. Did you "
     "mean global_average_pool?"),
    (["study=haeds"], f"study=haeds: there is no such option. Use one of {_options('study')}. Did you mean heads?"),
    (["head.keepdim=true"], "head.keepdim=true: there is no such setting. Did you mean head.keepdims?"),
    (["training.sizes=[]"], "training.sizes=[]: must be null or hold at least one height"),
    (["training.size_schedule=progressive"],
     "training.size_schedule=progressive: needs training.sizes, which are null. "
     "Use training.size_schedule=uniform, or for example training.sizes=[20,24,28,32,40]."),
    (["training.batch_counts=pixels"], "training.batch_counts=pixels: needs training.sizes, which are null"),
    (["training.sizes=[6,8]", "training.batch_counts=pixels", "training.size_schedule=progressive"],
     "training.batch_counts=pixels: cannot be with training.size_schedule=progressive: epochs would have different "
     "numbers of steps. Use training.batch_counts=images, or training.size_schedule=uniform."),
    (["training.sizes=[6,8]", "training.size_schedule=progressive", "training.fine_tuning.epochs=2",
      "backbone.trainable=false"],
     "training.size_schedule=progressive: cannot be with training.fine_tuning.epochs above 0"),
    (["training.sizes=[6,8]", "training.batch_counts=pixels", "training.strategy=mirrored"],
     "training.batch_counts=pixels: cannot be with training.strategy=mirrored"),
    (["head=generalized_mean_pool", "head.p=0"], "head.p=0.0: must lie in [1, 100]"),
    (["head=spatial_pyramid_pool", "head.levels=[0]"], "head.levels=[0]: needs at least one level"),
    (["head=conv_pool", "head.hidden_units=[8]"], "head.hidden_units=[8]: conv_pool has no Dense layers. Use "
     "head.hidden_filters=[128] for 1×1 convolutions"),
    (["head=conv_pool", "head.hidden_filters=[0]"], "head.hidden_filters=[0]: each width must lie in [1, 2³¹)"),
    (["head=conv_pool", "head.pool=all"], "head.pool=all: must be global or full_window. Use for example "
     "head.pool=global."),
    (["head=adaptive_average_pool", "head.bins=[7]"], "head.bins=[7]: must be null or [rows, columns], each from 1"),
    (["head=adaptive_average_pool", "head.bins=[0,7]"], "head.bins=[0, 7]: must be null or [rows, columns]"),
    (["head=average_max_pool", "head.combine=sum"], "head.combine=sum: must be mean or concatenate. Use for example "
     "head.combine=mean."),
    (["head=attention_pool", "head.attention_heads=0"], "head.attention_heads=0: must lie in [1, 1024]"),
    (["training.epoch=3"], "training.epoch=3: there is no such setting. Did you mean training.epochs?"),
    (["sed=3"], "sed=3: there is no such setting. Did you mean seed?"),
    (["epochs=3"], "epochs=3: there is no such setting. Did you mean training.epochs?"),
    (["lr=0.1"], "lr=0.1: there is no such setting. Did you mean training.learning_rate?"),
    (["training.lr=0.1"], "training.lr=0.1: there is no such setting. Did you mean training.learning_rate?"),
    (["hidden_units=[8]"], "hidden_units=[8]: there is no such setting. Did you mean head.hidden_units?"),
    (["nothing=3"], "nothing=3: there is no such setting. The top level has hydra, dataset, backbone"),
    (["head=gap"], "spatial_pyramid_pool. Did you mean global_average_pool?"),
    (["+head.colour=red"], "head.colour=red: there is no such setting. head has name, hidden_units, dropout, keepdims"),
    (["training.epochs=many"], "training.epochs=many: Value 'many' of type 'str' could not be converted to Integer"),
    (["training.optimizer=adamax"], "training.optimizer=adamax: Invalid value 'adamax', expected one of [adam, adamw, "
     "sgd]"),
    (["training.weight_decay=-0.1"], "training.weight_decay=-0.1: must be a number of at least 0. Use for example "
     "training.weight_decay=0.01."),
    (["training.weight_decay=inf", "training.optimizer=sgd"], "training.weight_decay=inf: must be a number of at "
     "least 0"),
    (["training.weight_decay=500", "training.optimizer=sgd", "training.learning_rate=0.002"], "training.weight_decay="
     "500.0: must be less than 1 / training.learning_rate, 500: a step takes their product away of each kernel. Use "
     "for example training.weight_decay=0.05."),
    (["training.weight_decay=0.1"], "training.weight_decay=0.1: cannot be with training.optimizer=adam, whose steps "
     "have none. Use training.optimizer=adamw or training.optimizer=sgd."),
    (["training.warmup_epochs=-1"], "training.warmup_epochs=-1.0: must lie in [0, 10): fewer than training.epochs"),
    (["training.warmup_epochs=1", "training.epochs=1"], "training.warmup_epochs=1.0: must lie in [0, 1): fewer than "
     "training.epochs. Use for example training.warmup_epochs=0.5."),
    (["training.clip_norm=0"], "training.clip_norm=0.0: must be null or a number above 0. Use for example "
     "training.clip_norm=1.0."),
    (["training.clip_norm=nan"], "training.clip_norm=nan: must be null or a number above 0"),
    (["training.label_smoothing=1"], "training.label_smoothing=1.0: must lie in [0, 1). Use for example "
     "training.label_smoothing=0.1."),
    (["training.label_smoothing=some"], "training.label_smoothing=some: Value 'some' of type 'str' could not be"),
    (["training.class_weights=equal"], "training.class_weights=equal: Invalid value 'equal', expected one of [none, "
     "balanced]"),
    (["training.weight_average=1"], "training.weight_average=1.0: must be null or lie in (0, 1). Use for example "
     "training.weight_average=0.99."),
    (["training.weight_average=0"], "training.weight_average=0.0: must be null or lie in (0, 1)"),
    (["training.patience=0"], "training.patience=0: must be at least 1. Use for example training.patience=3."),
    (["training.patience=2", "training.strategy=multi_worker"], "training.patience=2: cannot be with "
     "training.strategy=multi_worker: each rank would end by itself. Use training.patience=null."),
    (["training.patience=2", "dataset.validation_fraction=0", "training.keep_weights=last"], "training.patience=2: "
     "needs validation images to go by, and dataset.validation_fraction is 0. Use training.patience=null or"),
    (["training.fine_tuning.epochs=3"], "training.fine_tuning.epochs=3: comes after epochs in which the backbone is "
     "frozen, and backbone.trainable is true. Use backbone.trainable=false, or training.fine_tuning.epochs=0."),
    (["training.fine_tuning.epochs=3", "backbone.trainable=false", "training.strategy=multi_worker"],
     "training.fine_tuning.epochs=3: cannot be with training.strategy=multi_worker. Use training.fine_tuning"),
    (["training.fine_tuning.epochs=3", "backbone.trainable=false", "training.prune=true"],
     "training.prune=true: cannot be with training.fine_tuning.epochs=3: a training in two stages has none to be "),
    (["training.fine_tuning.epochs=-1"], "training.fine_tuning.epochs=-1: must be at least 0"),
    (["training.fine_tuning.learning_rate=0"], "training.fine_tuning.learning_rate=0.0: must be a number above 0"),
    (["training.fine_tuning.layer=conv"], "training.fine_tuning.layer=conv: there is no such setting. "
     "Did you mean training.fine_tuning.from_layer?"),
    (["backbone.feature_cache=int8"], "backbone.feature_cache=int8: Invalid value 'int8', expected one of [float32, "),
    (["backbone.feature_cache_gb=0"], "backbone.feature_cache_gb=0.0: must be a number above 0"),
    (["training.augmentation=light"], "training.augmentation=light: Invalid type assigned"),
    (["training.augmentation.mirror=true"], "training.augmentation.mirror=true: there is no such setting. "
     "training.augmentation has flip, translate, rotate, zoom, operations, magnitude, erase, mixup, cutmix."),
    (["training.augmentation.flip=0.5"], "training.augmentation.flip=0.5: Value '0.5' is not a valid bool"),
    (["training.augmentation.translate=1"], "training.augmentation.translate=1.0: must lie in [0, 1). Use for example "
     "training.augmentation.translate=0.1."),
    (["training.augmentation.zoom=nan"], "training.augmentation.zoom=nan: must lie in [0, 1)"),
    (["training.augmentation.rotate=360"], "training.augmentation.rotate=360.0: must lie in [0, 180]"),
    (["training.augmentation.operations=-1"], "training.augmentation.operations=-1: must lie in 0 to 14. Use for "
     "example training.augmentation.operations=2."),
    (["training.augmentation.magnitude=31"], "training.augmentation.magnitude=31.0: must lie in [0, 30]"),
    (["training.augmentation.erase=2"], "training.augmentation.erase=2.0: must lie in [0, 1]"),
    (["training.augmentation.mixup=-1"], "training.augmentation.mixup=-1.0: must lie in [0, 100]"),
    (["training.augmentation.cutmix=inf"], "training.augmentation.cutmix=inf: must lie in [0, 100]"),
    (["dataset.cache=ram"], "dataset.cache=ram: Invalid value 'ram', expected one of [memory, disk, none]"),
    (["head=average_pool", "head.strides=[-1,1]"], "head.strides=[-1, 1]: must be null or two numbers of at least 1"),
    (["head=average_pool", "head.pool_size=whole"], "head.pool_size=whole: must be 'full' or two numbers"),
    (["head=average_pool", "head.padding=full"], "head.padding=full: must be valid or same"),
    (["head.dropout=1.0"], "head.dropout=1.0: must lie in [0, 1). Use for example head.dropout=0.5."),
    (["head.hidden_units=[0]"], "head.hidden_units=[0]: each width must lie in [1, 2³¹)"),
    (["head.name=gap"], "head.name=gap: is fixed to global_average_pool"),
    (["dataset.validation_fraction=1.5"], "dataset.validation_fraction=1.5: must lie in [0, 1)"),
    (["dataset.validation_fraction=0"], "training.keep_weights=best: needs validation images"),
    (["training.steps_per_execution=0"], "training.steps_per_execution=0: must be at least 1"),
    (["training.steps_per_execution=2", "training.strategy=mirrored"], "training.steps_per_execution=2: must be 1 with "
     "training.strategy=mirrored"),
    (["training.prune=true", "study=heads"], "training.prune=true: cannot be with study=heads: a study compares whole "
     "trainings. Use training.prune=false."),
    (["training.prune=true", "training.strategy=multi_worker"], "training.prune=true: cannot be with "
     "training.strategy=multi_worker: only one rank would end"),
    (["training.prune=true", "dataset.validation_fraction=0", "training.keep_weights=last"], "training.prune=true: "
     "cannot be with dataset.validation_fraction=0: it goes by validation accuracy"),
    (["dataset.image_size=[8]"], "dataset.image_size=[8]: must be null or [height, width]"),
    (["dataset=tfds"], "dataset.name=???: has no value. Give one, as in dataset.name=VALUE."),
    (["training.batch_size=0"], "training.batch_size=0: must be at least 1. Use for example training.batch_size=128."),
    (["training.learning_rate=-1"], "training.learning_rate=-1.0: must be a number above 0"),
    (["training.learning_rate=nan"], "training.learning_rate=nan: must be a number above 0"),
    (["size_probe.sizes=[]"], "size_probe.sizes=[]: must be null or hold at least one height"),
    (["size_probe.scales=[]"], "size_probe.scales=[]: needs at least one scale"),
    (["size_probe.max_images=0"], "size_probe.max_images=0: must be at least 1"),
    (["backbone.strides=[1,2]"], "backbone.strides=[1, 2]: needs one stride a layer, 4 as in backbone.filters"),
    (["backbone.kernels=[3,3,1]"], "backbone.kernels=[3, 3, 1]: needs one kernel a layer, 4 as in backbone.filters"),
    (["backbone.kernels=[3,3,0,3]"], "backbone.kernels=[3, 3, 0, 3]: needs at least one layer, and each number"),
    (["backbone.dilations=[1,2,1,1]"], "backbone.dilations=[1, 2, 1, 1]: a layer can have a stride above 1 or a "
     "dilation above 1, not both, and backbone.strides=[1, 2, 1, 2]. Use for example backbone.dilations=[1, 1, 1, 1]."),
    (["backbone.filters=[]"], "backbone.filters=[]: needs at least one layer"),
    (["backbone=keras_application", "backbone.weights=nowhere.h5"], "backbone.weights=nowhere.h5: must be null, "
     "imagenet, or the path of a weights file"),
    (["backbone=from_model"], "backbone.path=???: has no value. Give one, as in backbone.path=VALUE."),
    (["backbone=from_model", "backbone.path=no.keras"], "backbone.path=no.keras: there is no such file. Give the path "
     "of a .keras file: backbone.path=PATH."),
    (["backbone=from_model", "backbone.path=my.h5"], "backbone.path=my.h5: is not in Keras's .keras format, or is cut "
     "short. Save the model with model.save('NAME.keras')."),
    (["backbone=from_model", "backbone.path=cut_short.keras"], "backbone.path=cut_short.keras: is not in Keras's "
     ".keras format, or is cut short."),
    (["backbone=from_model", "backbone.path=my.keras", "backbone.scale=0"], "backbone.scale=0.0: must be a finite "
     "number other than 0. Use for example backbone.scale=1."),
    (["backbone=from_model", "backbone.path=my.keras", "backbone.offset=inf"], "backbone.offset=inf: must be a finite "
     "number. Use for example backbone.offset=0."),
    (["tracking.uri=http://me:secret@host"], "tracking.uri=http://***@host: must not hold a user or a password"),
    (["tracking.uri='postgresql://host/db?password=secret'"],
     "tracking.uri=postgresql://***@host: must not hold a user or a password"),
    (["tracking=server"], "tracking.uri has no value: Environment variable 'MLFLOW_TRACKING_URI' not found. Set it, or "
     "give tracking.uri=VALUE."),
    (["seed=-1"], "seed=-1: must lie in [0, 2³²)"),
    (["seed=5000000000"], "seed=5000000000: must lie in [0, 2³²)"),
    (["size_probe.seed=-1"], "size_probe.seed=-1: must be at least 0"),
    (["backbone.name=resnet"], "backbone.name=resnet: is fixed to small_fcn. Choose another backbone with "
     "backbone=resnet."),
    (["output_dir="], "output_dir=: must name a directory"),
    (["head.hidden_units=128"], "head.hidden_units=128: must be a list, such as head.hidden_units=[128]"),
    (["backbone.filters=[1.5,1]"], "backbone.filters=[1.5,1]: Value '1.5' of type 'float' could not be converted to "
     "Integer"),
    (["dataset.train_split=train[:80%]"], "dataset.train_split=train[:80%]: cannot be read as key=value"),
    (["head=average_pool,flatten_dense"], "several values make a sweep. Add --multirun"),
    (["dataset.image_size=${seed}"], "dataset.image_size: must be a list, such as dataset.image_size=[1,2]"),
    (["training.batch_size=${nope}"], "training.batch_size has no value: Interpolation key 'nope' not found. Set it"),
    (["backbone.filters=[[1]]"], "backbone.filters=[[1]]: must be a list of single values"),
    (["training.sizes=[{a:1}]"], "training.sizes"),
    (["training.batch_size=1000000000000"], "training.batch_size=1000000000000: must be less than 2³¹"),
    (["dataset.image_size=[100000,8]"], "dataset.image_size=[100000, 8]: must be null or [height, width], each from 1"),
    (["size_probe.sizes=[99999999]"], "size_probe.sizes=[99999999]: must be null or hold at least one height, each"),
    (["head=spatial_pyramid_pool", "head.levels=[9999]"], "head.levels=[9999]: needs at least one level"),
    (["dataset.version=latest"], "dataset.version=latest: must be null or three numbers"),
    (["tracking.uri='http://[::1'"], "tracking.uri=http://[::1: is not an address: Invalid IPv6 URL"),
    (["tracking.register_as=../x"], "tracking.register_as=../x: needs tracking.log_model=true, and a name without /"),
    ([f"tracking.register_as={'x' * 201}"], f"tracking.register_as={'x' * 201}: must be a name of at most 200 bytes. "),
    ([f"tracking.experiment={'x' * 600}"], "x… (600 characters): must be a name of at most 200 bytes. Use for example "
     "tracking.experiment=fashion_mnist."),
    (["dataset=image_folder", f"dataset.path={'x' * 201}"], f"dataset.name={'x' * 201}: must be a name of at most"),
    ([f"output_dir={'x' * 5000}"], "x… (5,000 characters): must have at most 4,096 bytes. Use a shorter text: "
     "output_dir=TEXT."),
    (["output_dir='a\nb'"], r"output_dir=a\nb: must be UTF-8 without control characters. Use a text of one line: "),
    (["tracking.experiment='a\udce4b'"], r"tracking.experiment=a\udce4b: must be UTF-8 without control characters."),
    (["question='a\0b'"], r"question=a\x00b: must be UTF-8 without control characters."),
    ([f"head={'x' * 3000}"], "x… (3,000 characters): there is no such option."),
    ([f"seed={'x' * 3000}"], "x… (3,000 characters): Value"),
    (["arm=../../etc/passwd"], "an option is the name of a file in the folder of its group, not a path"),
    (["head=average_pool", "head.pool_size={a:1}"], "head.pool_size={'a': 1}: must be 'full' or two numbers"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("overrides", "message"), WRONG, ids=lambda value: " ".join(value) if isinstance(value, list) else ""
)
def test_wrong_configurations_are_refused(overrides: list[str], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises((UserError, HydraException, OmegaConfBaseException)) as caught:
        typed(*overrides)
    explained = explain(caught.value)
    assert message in explained
    assert "secret" not in explained
    assert len(explained) < 2500


def test_a_question_may_have_several_lines() -> None:
    assert typed("question='Why?\nHow?'").question == "Why?\nHow?"


def test_the_typed_object_is_the_configuration() -> None:
    config = typed("head=average_pool", "head.pool_size=[2,2]", "seed=5")
    assert OmegaConf.structured(config).head.pool_size == [2, 2]
    assert (config.seed, config.output_path.is_absolute()) == (5, True)
    assert composed("seed=5").seed == 5
