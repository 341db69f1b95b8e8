"""Runs of a sweep that fail: the others go on, and the end says what failed, why, and how to try again."""

from __future__ import annotations

from pathlib import Path

import pytest
from mlflow import MlflowClient

from pipeline.cli.failures import Failure, note_failure, summary, sweep_failures
from tests.program.forked import run_forked


def test_failures_are_told_in_the_order_of_the_runs_and_alike_ones_together(tmp_path: Path) -> None:
    for number, message in ((10, "too late"), (2, "too small"), (1, "too late")):
        note_failure(Failure(f"run {number}", message), tmp_path / str(number))
    found = sweep_failures(tmp_path)
    assert [failure.command for failure in found] == ["run 1", "run 2", "run 10"]
    assert summary(found).splitlines() == [
        "3 runs of this sweep failed:",
        "- too late",
        "  Again: run 1",
        "  Again: run 10",
        "- too small",
        "  Again: run 2",
        "The command of the sweep tries all of these again, and none that has finished.",
    ]
    assert summary(found[:1]).startswith("1 run of this sweep failed:")


@pytest.mark.slow
def test_the_other_runs_of_a_study_go_on_and_are_compared(tmp_path: Path) -> None:
    """Of three heads, only global average pooling takes 12 px."""
    arguments = ["study=heads", "seed=0", "training.epochs=1", "training.sizes=[8,12]", "size_probe.sizes=[8,12]"]
    result = run_forked("pipeline.train", *arguments, cwd=tmp_path)
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    end = result.stderr[result.stderr.index("2 runs of this sweep failed:") :].splitlines()
    assert end[1].startswith("- training.sizes=[8, 12]: head=flatten_dense on small_fcn has to take every one of them")
    assert end[2].startswith(
        "  Again: python -m pipeline.train seed=0 head=flatten_dense study=heads training.epochs=1"
    )
    assert end[3].startswith("- training.sizes=[8, 12]: head=average_pool")
    assert len(end) == 6
    row, _ = [line for line in result.stdout.splitlines() if line.startswith("│ global_average_pool")]
    assert "66,218" in row  # The other row is of the scores beside accuracy.
    runs = MlflowClient(f"sqlite:///{tmp_path / 'outputs' / 'mlflow.db'}").search_runs(["1"], "tags.study = 'heads'")
    assert [(run.data.tags["head"], run.info.status) for run in runs] == [("global_average_pool", "FINISHED")]


@pytest.mark.slow
def test_a_mistake_that_all_runs_share_is_told_once(tmp_path: Path) -> None:
    result = run_forked("pipeline.train", "study=heads", "seed=0", "head.dropout=2", cwd=tmp_path)
    assert result.returncode == 2
    last = [line for line in result.stderr.splitlines() if line]
    assert last == ["Error: head.dropout=2.0: must lie in [0, 1). Use for example head.dropout=0.5."]
