"""Any setting with any value: either a typed configuration and a plan, or one line that names the setting."""

from __future__ import annotations

import functools
import re
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hydra.errors import MissingConfigException
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from hypothesis.configuration import set_hypothesis_home_dir
from omegaconf import DictConfig, OmegaConf

from pipeline.cli.ending import is_mistake
from pipeline.cli.messages import EXTRAS, explain
from pipeline.config import CONFIG_DIR, Config
from pipeline.config.register import GROUPS
from pipeline.data import source
from pipeline.other_sizes.plan import SizePlan
from tests.config.test_config import NEEDS
from tests.conftest import composed, typed
from tests.program.forked import run_forked

OPTIONS = {
    group: sorted(path.stem for path in (CONFIG_DIR / group).glob("*.yaml"))
    for group in GROUPS
    if (CONFIG_DIR / group).is_dir()
}


def _needs(group: str, option: str) -> list[str]:
    return [f"{group}={option}", *NEEDS.get(f"{group}/{option}", [])]


def _leaves(config: DictConfig, prefix: str = "") -> list[str]:
    """Dotted names of all settings."""
    found: list[str] = []
    for key in map(str, config):
        is_group = not OmegaConf.is_missing(config, key) and isinstance(config[key], DictConfig)
        found += _leaves(config[key], f"{prefix}{key}.") if is_group else [f"{prefix}{key}"]
    return found


@functools.cache
def _settings_of(group: str, option: str) -> tuple[str, ...]:
    """What can be set with this option, with its group or anywhere else; nothing where its package is not installed."""
    try:
        return tuple(_leaves(composed(*_needs(group, option))))
    except MissingConfigException as error:
        if error.missing_cfg_file in EXTRAS:
            return ()
        raise


NUMBERS = st.one_of(
    st.integers(-3, 40),
    st.sampled_from([2**31 - 1, 2**31, 2**32, 2**63, 10**30]),
    st.floats(-2, 2),
    st.sampled_from(["nan", "inf", "-inf", "1e400", "1e-400"]),
).map(str)
WORDS = st.one_of(
    st.sampled_from(["", "true", "null", "full", "same", "best", "sgd", "disk", "train", "'train[:50%]'", "'train[:'"]),
    st.sampled_from(["???", "${seed}", "'${nope}'", "..", "/", "~", "/dev/null", "'a b'", "é☃", "'\\0'"]),
    st.text("abcz019._-", max_size=6),
)
VALUES = st.one_of(
    NUMBERS,
    WORDS,
    st.lists(st.one_of(NUMBERS, NUMBERS, WORDS), max_size=4).map(lambda items: f"[{','.join(items)}]"),
    st.sampled_from(["{}", "{a:1}", "[[1]]", "[{a:1}]", "[", "a=b", "1,2"]),
)


@st.composite
def command_lines(draw: st.DrawFn) -> list[str]:
    """An option of some group, and up to three settings with values that may or may not be valid."""
    group = draw(st.sampled_from(sorted(OPTIONS)))
    option = draw(st.sampled_from(OPTIONS[group]))
    names = _settings_of(group, option)
    keys = draw(st.lists(st.sampled_from(names), max_size=3, unique=True)) if names else []
    return [*_needs(group, option), *(f"{key}={draw(VALUES)}" for key in keys)]


def _named_in(message: str, overrides: list[str]) -> bool:
    """Whether a message names one of the settings, or the option whose settings they are."""
    keys = [text.partition("=")[0] for text in overrides]
    return any(name in message for key in keys for name in (key, f"{key.partition('.')[0]}="))


@pytest.fixture(autouse=True, scope="module")
def in_a_directory_with_a_model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    directory = tmp_path_factory.mktemp("fuzz")
    zipfile.ZipFile(directory / "my.keras", "w").close()
    set_hypothesis_home_dir(directory / "hypothesis")  # Without a database, too, it keeps tables of characters.
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(directory)
        yield


def _check(overrides: list[str], patch: pytest.MonkeyPatch) -> str:
    """Composes and plans as the program does; returns what it says if it refuses."""
    patch.setattr(sys, "argv", ["train", *overrides])
    config: Config | None = None
    is_composed = False
    try:
        composed(*overrides)
        is_composed = True
        config = typed(*overrides)
        facts = source.describe(config.dataset)
        plan = SizePlan(config.backbone, config.head, facts)
        plan.check_training(config.training.sizes)
        plans = plan.sizes(config.size_probe)
    except Exception as error:
        assert is_mistake(error) or not is_composed, f"{overrides} end in {error!r}"
        message = explain(error)
        assert len(message.splitlines()) == 1, f"{overrides}: {message}"
        assert _named_in(message, overrides), f"{overrides}: {message}"
        assert re.search(r"[.)/']$", message), message  # A whole sentence, or a command.
        return message
    assert config is not None
    assert facts.image_size in [plan.size for plan in plans]
    return ""


EXAMPLES = settings(
    database=None,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)


def _fuzz(examples: int) -> None:
    answers: list[str] = []

    @settings(EXAMPLES, max_examples=examples)
    @given(command_lines())
    @example(["head=0"])
    @example(["launch=ray"])
    @example(["launch=slurm"])
    @example(["study=[1]"])
    @example(["dataset.image_size=${seed}"])
    @example(["training.batch_size=1000000000000"])
    @example(["size_probe.sizes=[60000]"])
    def fuzz(overrides: list[str]) -> None:
        with pytest.MonkeyPatch.context() as patch:
            answers.append(_check(overrides, patch))

    fuzz()
    refused = sum(map(bool, answers))
    assert refused > len(answers) / 4
    assert len(answers) - refused >= len(answers) / 25  # One wrong setting of several is enough to be refused.


@pytest.mark.slow
def test_many_command_lines_are_planned_or_refused_in_one_line() -> None:
    _fuzz(examples=50)


@pytest.mark.slow
def test_what_does_not_fit_into_memory_is_refused_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """TensorFlow tries for ten seconds."""
    message = _check(["head.hidden_units=[2147483647]"], monkeypatch)
    assert message.startswith("There is not enough memory: OOM when allocating tensor with shape[64,2147483647]")


VALID = st.fixed_dictionaries(
    {
        "head": st.sampled_from(OPTIONS["head"]),
        "head.hidden_units": st.sampled_from(["[]", "[1]", "[7,3]"]),
        "head.dropout": st.sampled_from(["0", "0.9"]),
        "backbone.filters": st.sampled_from(["[1,1]", "[3,8]"]),
        "backbone.strides": st.sampled_from(["[1,1]", "[2,2]", "[4,2]"]),
        "training.batch_size": st.sampled_from(["7", "100000"]),
        "training.optimizer": st.sampled_from(["adamw", "sgd"]),
        "training.weight_decay": st.sampled_from(["0", "0.1", "1e9"]),
        "training.warmup_epochs": st.sampled_from(["0", "0.5"]),
        "training.label_smoothing": st.sampled_from(["0", "0.9"]),
        "training.class_weights": st.sampled_from(["none", "balanced"]),
        "training.weight_average": st.sampled_from(["null", "0.5"]),
        "training.augmentation.rotate": st.sampled_from(["0", "180"]),
        "training.augmentation.erase": st.sampled_from(["0", "1"]),
        "training.augmentation.cutmix": st.sampled_from(["0", "0.01"]),
        "training.learning_rate": st.sampled_from(["1e-9", "0.1", "1e30"]),
        "training.precision": st.sampled_from(["float32", "mixed_bfloat16"]),
        "training.sizes": st.sampled_from(["null", "[8]", "[6,8]"]),
        "dataset.cache": st.sampled_from(["memory", "disk", "none"]),
        "dataset.image_size": st.sampled_from(["null", "[9,7]"]),
        "size_probe.sizes": st.sampled_from(["[8]", "[1,2,31]"]),
        "seed": st.sampled_from(["0", "4294967295"]),
    }
)


@pytest.mark.slow
def test_what_is_trained_ends_in_a_result_or_in_one_line(tmp_path: Path) -> None:
    """The same for whole runs of the program, each of one epoch."""

    @settings(EXAMPLES, max_examples=3)
    @given(VALID)
    def fuzz(chosen: dict[str, str]) -> None:
        arguments = [f"{key}={value}" for key, value in chosen.items()]
        result = run_forked("pipeline.train", *arguments, "training.epochs=1", cwd=tmp_path)
        assert "Traceback" not in result.stdout + result.stderr, arguments
        said = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
        assert (result.returncode, len(said)) in ((0, 0), (2, 1)), arguments

    fuzz()
