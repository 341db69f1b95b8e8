"""What counts as the code of a run: a change that is only said trains nothing again, one that computes does."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from pipeline.tracking.code_digest import COMPUTES, PACKAGE, code_digest


@pytest.fixture
def package(tmp_path: Path) -> Path:
    return shutil.copytree(PACKAGE, tmp_path / "pipeline", ignore=shutil.ignore_patterns("__pycache__"))


def _change(file: Path, before: str, after: str) -> None:
    text = file.read_text()
    assert before in text
    file.write_text(text.replace(before, after, 1))


def test_it_is_of_this_code_and_the_same_for_a_copy(package: Path) -> None:
    assert len(code_digest()) == 32
    assert code_digest(package) == code_digest()
    assert all((PACKAGE / name).exists() for name in COMPUTES)


@pytest.mark.parametrize(
    ("file", "before", "after"),
    [
        ("heads/flatten.py", "from __future__", "# A comment.\nfrom __future__"),
        ("heads/base.py", '"""What the whole head is', '"""Otherwise said what the whole head is'),
        ("heads/verdict.py", '"""It runs, but', '"""It does run, but'),  # The description of a constant.
        ("heads/average.py", '"must be valid or same"', '"must be either"'),  # The rule of a setting.
        ("heads/average.py", "must fit into the {size_text(native)}", "has to fit into the {size_text(native)}"),
        ("data/made_once.py", '"%s is damaged (%s)', '"%s is broken (%s)'),  # A log line.
        ("comparison/report/answer.py", "is more accurate than", "is better than"),
        ("tracking/views.py", "learning curves", "curves of learning"),
        ("tracking/pictures.py", "WIDTH = 7.0", "WIDTH = 8.0"),
        ("cli/messages.py", "there is no such option", "no such option"),
        ("config/launch.py", "workers: int | None = 1", "workers: int | None = 2"),
    ],
)
def test_what_is_only_said_or_shown_changes_nothing(file: str, before: str, after: str, package: Path) -> None:
    _change(package / file, before, after)
    assert code_digest(package) == code_digest()


@pytest.mark.parametrize(
    ("file", "before", "after"),
    [
        ("heads/global_pools.py", "FLOOR: ClassVar[float] = 1e-6", "FLOOR: ClassVar[float] = 1e-5"),
        ("heads/average.py", 'self.padding in ("valid", "same")', 'self.padding in ("valid",)'),  # What is refused.
        ("models/backbones/small.py", "momentum=0.9", "momentum=0.99"),
        ("data/tf_data.py", "antialias=True", "antialias=False"),
        ("training/fit.py", "nesterov=True", "nesterov=False"),
        ("other_sizes/gradient.py", "PASS_VALUES = 2**25", "PASS_VALUES = 2**24"),
        ("common/size.py", "max(1, round(", "max(2, round("),
        ("run.py", "plan.check_training(training.sizes)", "pass"),
        ("models/keras_file.py", "raise ConfigError(key, path, rule, remedy)", "raise ValueError(key, path, rule)"),
    ],
)
def test_what_computes_changes_it(file: str, before: str, after: str, package: Path) -> None:
    _change(package / file, before, after)
    assert code_digest(package) != code_digest()


def test_a_file_more_changes_it(package: Path) -> None:
    (package / "heads" / "another.py").write_text("")
    assert code_digest(package) != code_digest()
