"""The benchmarks still run; how fast anything is, is not for a test to say."""

from __future__ import annotations

import ast
import importlib
import json
import pkgutil
import re
import runpy
import subprocess
import sys
from pathlib import Path
from unittest.mock import patch

import mlflow
import pytest

from tests.conftest import HANG_SECONDS, ROOT, program_environment

BENCHMARKS = ROOT / "tests" / "benchmarks"
SCRIPTS = sorted(BENCHMARKS.rglob("*.py"))
WITH_ARGUMENTS = (
    *("augmentation_speed.py", "compare_speed.py", "comparison_time.py", "dashboard_speed.py", "frozen_study.py"),
    *("many_runs.py", "probe_speed.py", "scaling.py", "step_share.py", "study_speed.py"),
)
WITH_SETTINGS = ("profile_run.py", "unguarded.py")
"""They run the program's own command, which changes the process that it is in."""
ELSEWHERE = ("lightning", "torch")
"""What the scripts in PyTorch need, in an environment of their own."""


def _output(cwd: Path, script: str, *arguments: str) -> str:
    """Standard output of a benchmark."""
    result = subprocess.run(
        [sys.executable, str(BENCHMARKS / script), *arguments],
        cwd=cwd,
        env=program_environment(),
        capture_output=True,
        text=True,
        timeout=HANG_SECONDS,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def _rows(cwd: Path, script: str, *arguments: str) -> list[list[str]]:
    """Cells of every row of the Markdown tables that a benchmark prints."""
    lines = [line for line in _output(cwd, script, *arguments).splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]


@pytest.fixture
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """The benchmarks import each other by name."""
    monkeypatch.syspath_prepend(BENCHMARKS)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: str(script.relative_to(BENCHMARKS)))
@pytest.mark.usefixtures("importable")
def test_whatever_a_benchmark_imports_is_there(script: Path) -> None:
    wanted = set()
    for node in ast.walk(ast.parse(script.read_text())):  # In its functions, too.
        if isinstance(node, ast.Import):
            wanted |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            wanted |= {f"{node.module}.{alias.name}" for alias in node.names}
    for name in sorted(wanted):
        try:
            pkgutil.resolve_name(name)
        except ModuleNotFoundError as error:
            if error.name not in ELSEWHERE:
                raise
            pytest.skip(f"needs {error.name}")


@pytest.mark.parametrize("script", WITH_ARGUMENTS)
@pytest.mark.usefixtures("importable")
def test_a_benchmark_tells_its_arguments(
    script: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [script, "--help"])
    with pytest.raises(SystemExit, match="^0$"):
        runpy.run_path(str(BENCHMARKS / script), run_name="__main__")
    assert len(capsys.readouterr().out.splitlines()) > 3
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("script", WITH_SETTINGS)
def test_a_benchmark_tells_the_settings(script: str, tmp_path: Path) -> None:
    assert len(_output(tmp_path, script, "--help").splitlines()) > 3
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("importable")
def test_the_functions_that_the_profile_times_are_there() -> None:
    profile_run = importlib.import_module("profile_run")
    named = [(where, name) for where, name, _ in profile_run.PARTS]
    named += [(where, name) for where, names in profile_run.TRACKING for name in names]
    assert len(named) > 20
    for where, name in named:
        assert callable(getattr(pkgutil.resolve_name(where), name))


@pytest.mark.usefixtures("importable")
def test_the_guards_that_are_taken_away_are_there() -> None:
    from pipeline import run

    names = ("exclusive", "finished_run", "finished_by_peer")
    guards = [vars(run)[name] for name in names]
    try:
        importlib.import_module("unguarded")._import_and_unguard()
        assert all(vars(run)[name] is not guard for name, guard in zip(names, guards, strict=True))
    finally:
        patch.stopall()
    assert [vars(run)[name] for name in names] == guards


@pytest.mark.slow
def test_without_its_guards_the_program_trains_again(tmp_path: Path) -> None:
    for _ in range(2):
        _output(tmp_path, "unguarded.py", "training.epochs=1", f"output_dir={tmp_path}", "size_probe.sizes=[8]")
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/mlflow.db")
    runs = mlflow.search_runs(search_all_experiments=True)
    assert list(runs["status"]) == ["FINISHED"] * 2
    assert runs["tags.run_key"].nunique() == 1
    assert not (tmp_path / "unfinished").exists()


@pytest.mark.slow
def test_the_rate_of_matrix_products_is_measured(tmp_path: Path) -> None:
    assert json.loads(_output(tmp_path, "matmul_rate.py"))["flops_per_second"] > 0


@pytest.mark.slow
def test_the_time_of_a_comparison_is_measured(tmp_path: Path) -> None:
    assert re.match(r"30 runs: [\d.]+ s, at most [\d.]+ GiB", _output(tmp_path, "comparison_time.py", "--copies", "1"))


@pytest.mark.slow
def test_what_a_store_of_many_runs_costs_is_measured(tmp_path: Path) -> None:
    """Three of seed 0, three of seed 1, and three that are repeated."""
    short = ("training.epochs=1", "size_probe.ways=[]", "size_probe.sizes=[8]")
    printed = _output(tmp_path, "many_runs.py", "--runs", "9", "--images", "500", *short)
    assert re.match(
        r"9 runs: the store takes \d+ MB, their report \d\.\d MB\ncomparing the 6 of one study: [\d.]+ s", printed
    )


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


@pytest.mark.parametrize(
    ("dataset", "sizes"),
    [
        pytest.param("digits", "4, 6, 7, 10, 12, 14, 16", marks=pytest.mark.slow),
        pytest.param("fashion_mnist", "14, 21, 24, 35, 42, 49, 56", marks=pytest.mark.real_data),
    ],
)
def test_the_probe_is_measured_beside_predict(dataset: str, sizes: str, tmp_path: Path) -> None:
    (row,) = _rows(tmp_path, "probe_speed.py", "--ways", "--pairs", "1", "--images", "100", "--dataset", dataset)[2:]
    assert row[:2] == [sizes, "2 × 100"]
    assert all(float(cell.split()[0]) >= 0 for cell in row[2:])  # A fast machine takes 0.0 s.
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_step_is_measured_beside_its_convolutions(tmp_path: Path) -> None:
    rows = _rows(tmp_path, "step_share.py", "--rounds", "1")[2:]
    assert [row[0] for row in rows] == ["step", "convolutions alone"]
    assert all(float(cell.split()[0]) >= 0 for row in rows for cell in row[1:])  # A fast one takes 0.0 ms.


@pytest.mark.slow
def test_steps_on_augmented_images_are_measured_beside_those_without(tmp_path: Path) -> None:
    rows = _rows(tmp_path, "augmentation_speed.py", "--rounds", "1", "--dataset", "digits")[2:]
    assert rows[0][0] == "as they are"
    assert rows[0][2:] == ["1.00 (1.00–1.00)"] * 2
    assert len(rows) == 4
    assert not list(tmp_path.iterdir())
