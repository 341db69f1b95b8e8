"""The speed comparison still runs; how fast anything is, is not for a test to say."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT


@pytest.mark.slow
def test_the_comparison_prints_a_row_and_both_sides_learn_the_same(tmp_path: Path) -> None:
    script = ROOT / "tests" / "benchmarks" / "compare_speed.py"
    result = subprocess.run(
        [sys.executable, str(script), "--pairs", "1", "--dataset", "digits"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert result.returncode == 0, result.stderr
    (row,) = [line for line in result.stdout.splitlines() if line.startswith("| digits")]
    cells = [cell.strip() for cell in row.split("|")[2:-1]]
    assert all(re.fullmatch(r"[\d,.]+( \([\d.]+–[\d.]+\))?", cell) for cell in cells)
    program, script_accuracy = (float(cell) for cell in cells[-2:])
    assert min(program, script_accuracy) > 0.9
