"""What is done is not done again: unless something changed that determines a result."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import HANG_SECONDS, ROOT

RUN = ("head=global_average_pool", "training.epochs=1", "size_probe.sizes=[8]", "tracking.log_model=false")


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A copy of the program, to be changed."""
    for name in ("pipeline", "conf", "experiments"):
        shutil.copytree(ROOT / name, tmp_path / "clone" / name, ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path / "clone"


def _train(clone: Path, *overrides: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "pipeline.train", *RUN, *overrides],
        cwd=clone,
        env={**os.environ, "PYTHONPATH": str(clone)},
        capture_output=True,
        text=True,
        timeout=HANG_SECONDS,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def _change(file: Path, before: str, after: str) -> None:
    text = file.read_text()
    assert text.count(before) == 1
    file.write_text(text.replace(before, after))


@pytest.mark.slow
def test_a_comment_trains_nothing_again_and_a_line_of_a_head_does(clone: Path) -> None:
    assert "epoch 1/1" in _train(clone)
    assert "done before, as run" in _train(clone)
    report = clone / "pipeline" / "comparison" / "report" / "answer.py"
    _change(report, "def failed_controls(", "# A comment.\ndef failed_controls(")
    _change(report, "it is undecided at", "nothing is decided at")
    _change(clone / "pipeline" / "heads" / "global_pools.py", '"""What heads share', '"""What those heads share')
    again = _train(clone)
    assert "done before, as run" in again
    assert "epoch" not in again
    # Computed in another way, though to the same result: that is for nobody to know.
    _change(
        clone / "pipeline" / "heads" / "global_pools.py",
        "return keras.layers.Flatten(dtype=POOLING_DTYPE)(pooled) if self.keepdims else pooled",
        "return pooled if not self.keepdims else keras.layers.Flatten(dtype=POOLING_DTYPE)(pooled)",
    )
    assert "epoch 1/1" in _train(clone)
