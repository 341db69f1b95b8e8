"""The benchmarks still run; how fast anything is, is not for a test to say."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import HANG_SECONDS, ROOT


def _rows(cwd: Path, script: str, *arguments: str) -> list[list[str]]:
    """Cells of every row of the Markdown tables that a benchmark prints."""
    result = subprocess.run(
        [sys.executable, str(ROOT / "tests" / "benchmarks" / script), *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=HANG_SECONDS,
    )
    assert result.returncode == 0, result.stderr
    lines = [line for line in result.stdout.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]


@pytest.mark.slow
def test_the_comparison_prints_a_row_and_both_sides_learn_the_same(tmp_path: Path) -> None:
    (cells,) = [row[1:] for row in _rows(tmp_path, "compare_speed.py", "--pairs", "1", "--dataset", "digits")[2:]]
    assert all(re.fullmatch(r"[\d,.]+( \([\d.]+–[\d.]+\))?", cell) for cell in cells)
    program, script_accuracy = (float(cell) for cell in cells[-2:])
    assert min(program, script_accuracy) > 0.9


@pytest.mark.slow
def test_the_profile_knows_every_part_and_they_are_the_whole(tmp_path: Path) -> None:
    rows = _rows(tmp_path, "profile_run.py", "head=global_average_pool", "training.epochs=2")
    parts = {row[0]: float(row[2]) for row in rows[2 : rows.index(["tracking", "calls", "seconds", "share"])]}
    whole, rest = parts.pop("all"), parts["rest"]
    # Fourteen parts with what is left over, each of which took some time, or it would not be there; rounded to
    # hundredths, at most half a hundredth off each.
    assert len(parts) == 14
    assert sum(parts.values()) == pytest.approx(whole, abs=0.08)
    assert rest < whole / 2


@pytest.mark.real_data
def test_the_probe_is_measured_beside_predict(tmp_path: Path) -> None:
    (row,) = _rows(tmp_path, "probe_speed.py", "--pairs", "1", "--images", "100")[2:]
    assert row[:2] == ["14, 21, 24, 35, 42, 49, 56", "2 × 100"]
    assert all(float(cell.split()[0]) >= 0 for cell in row[2:])  # A fast machine takes 0.0 s.


@pytest.mark.slow
def test_a_step_is_measured_beside_its_convolutions(tmp_path: Path) -> None:
    rows = _rows(tmp_path, "step_share.py", "--rounds", "1")[2:]
    assert [row[0] for row in rows] == ["step", "convolutions alone"]
    assert all(float(cell.split()[0]) >= 0 for row in rows for cell in row[1:])  # A fast one takes 0.0 ms.
