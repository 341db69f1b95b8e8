"""Adding a head as pipeline/README.md says: a class in a file, a YAML file, rows in the tests' tables, nothing else."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import HANG_SECONDS, ROOT

HEAD = '''"""The middle of the map, then Dense."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from pipeline.common.size import Size
from pipeline.heads.base import Head

if TYPE_CHECKING:
    from keras import KerasTensor


@dataclass
class CentrePool(Head):
    """The cell in the middle of the map, or below and right of it, then Dense.

    Weights of the head without hidden layers: C·K + K.
    """

    name: str = "centre_pool"

    color: ClassVar[str] = "#F0E442"

    def collapsed_size(self, native: Size, size: Size) -> Size:
        return (1, 1) if min(size) > max(native) // 2 else (0, 0)

    def seen_cells(self, native: Size, size: Size) -> Size:
        return (1, 1)

    def collapse(self, feature_map: KerasTensor, native: Size) -> KerasTensor:
        return feature_map[:, native[0] // 2, native[1] // 2]
'''
YAML = """# python -m pipeline.train head=centre_pool
defaults:
  - /schema/head/centre_pool@_here_
  - _self_

hidden_units: []
dropout: 0.0
"""
STUDY = """# @package _global_
# Command   python -m pipeline.train study=centres
# Run time  1 minute on digits
# Expected  centre_pool is worse than global_average_pool
study: centres
question: Is the middle of the map enough?

training:
  epochs: 1

hydra:
  mode: MULTIRUN
  sweeper:
    params:
      seed: 0
      head: centre_pool,global_average_pool
"""


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A copy of the program and its tests, to be added to."""
    for name in ("pipeline", "conf", "experiments", "tests"):
        shutil.copytree(ROOT / name, tmp_path / "clone" / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("README.md", "pyproject.toml", "Makefile"):
        shutil.copy(ROOT / name, tmp_path / "clone" / name)
    return tmp_path / "clone"


def _python(clone: Path, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=clone,
        env={**os.environ, "PYTHONPATH": str(clone), "COLUMNS": "140"},
        capture_output=True,
        text=True,
        timeout=HANG_SECONDS,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


@pytest.mark.slow
def test_a_head_and_a_study_are_added_as_the_documents_say(clone: Path) -> None:
    (clone / "pipeline" / "heads" / "centre.py").write_text(HEAD)
    (clone / "conf" / "head" / "centre_pool.yaml").write_text(YAML)
    (clone / "experiments" / "study" / "centres.yaml").write_text(STUDY)
    tables = clone / "tests" / "heads" / "test_heads.py"
    text = tables.read_text()
    rows = {"PARAMETERS": "(CentrePool(), 64 * 10 + 10),", "CONTRACTS": "(CentrePool(), 8, CROPS, 1 / 64),"}
    for table, row in rows.items():
        text, count = re.subn(rf"^{table} = \[\n", rf"{table} = [\n    {row}\n", text, flags=re.MULTILINE)
        assert count == 1
    imported = "from pipeline.heads.flatten"
    text = text.replace(imported, f"from pipeline.heads.centre import CentrePool\n{imported}", 1)
    tables.write_text(text)

    defaults = "tests/config/test_config.py::test_yaml_defaults_are_the_classes_defaults"
    of_the_rooms = ("tests/heads", defaults, "tests/test_layers.py")
    its_own = "centre or yaml_defaults or test_layers"  # What the other heads do has been tried.
    _python(clone, "pytest", "-q", "-m", "not slow and not program", "-k", its_own, *of_the_rooms)
    assert "centre_pool" in _python(clone, "pipeline.train", "--help")
    planned = _python(clone, "pipeline.plan", "head=centre_pool", "size_probe.sizes=[4,8,12]")
    verdicts = re.findall(r"^│ \d+×\d+ +│ .*?│ .*?│ (\w+) +│", planned, re.MULTILINE)
    assert verdicts == ["refuses", "crops", "crops"]  # Of maps of 1×1, 2×2 and 3×3 cells, one is seen.
    studied = _python(clone, "pipeline.train", "study=centres", "size_probe.sizes=[8]")
    assert "small_fcn on digits at 8×8 px" in studied
    assert re.search(r"│ centre_pool +│ 1 ", studied) or re.search(r"│ centre_pool +│ +1 ", studied)
