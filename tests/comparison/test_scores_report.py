"""Scores beside accuracy in a study's report: means over seeds, and what earlier versions did not record."""

from __future__ import annotations

import io
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from pipeline.common.table import Table
from pipeline.comparison.analysis import analyse
from pipeline.comparison.report.classes import MAX_CLASSES
from pipeline.comparison.report.markdown import markdown_page
from pipeline.comparison.report.report import make_report
from pipeline.comparison.report.scores import scores_tables
from pipeline.comparison.report.terminal import print_report
from pipeline.comparison.snapshot import read_snapshot, write_snapshot
from pipeline.other_sizes.ways import WAYS
from tests.comparison.studies import ASKS, STATISTICS, page_of, study


def _study(**more: object) -> pd.DataFrame:
    """Three heads, two seeds; the second seed is .02 better in everything but its calibration."""
    runs = study(seeds=2)
    better = 0.02 * (runs["params.seed"] == "1")
    return runs.assign(
        **{
            "metrics.test/accuracy": 0.9 + better,
            "metrics.test/balanced_accuracy": 0.8 + better,
            "metrics.test/calibration_error": 0.05 - better,
            "recall.cat": 0.95 + better,
            "recall.[/dog]": 0.65 + better,
            "recall.unicorn": math.nan,
            **more,
        }
    )


def _tables(runs: pd.DataFrame) -> list[Table]:
    (group,) = analyse(runs, STATISTICS, ASKS)
    return list(scores_tables(group, STATISTICS))


def test_means_over_the_seeds_by_arm_and_by_class() -> None:
    by_arm, by_class = _tables(_study())
    assert by_arm.columns == (
        "arm",
        ">test accuracy",
        ">balanced accuracy",
        ">calibration error",
        ">lowest recall (class)",
    )
    # (.90 + .92) / 2, (.80 + .82) / 2, (.05 + .03) / 2 and (.65 + .67) / 2
    numbers = ("0.9100", "0.8100", "0.0400", "0.6600 ([/dog])")
    assert by_arm.rows == tuple((arm, *numbers) for arm in ("flatten_dense", "average_pool", "global_average_pool"))
    assert "Top-5" not in by_arm.caption
    assert by_class.columns == ("class", ">flatten_dense", ">average_pool", ">global_average_pool")
    # The lowest first; no test image is of a unicorn. (.95 + .97) / 2
    assert by_class.rows == (("[/dog]", *["0.6600"] * 3), ("cat", *["0.9600"] * 3))


def test_calibration_at_other_sizes_is_a_mean_over_the_seeds() -> None:
    runs = _study()
    runs["calibration.resize_016px"] = np.where(runs["params.seed"] == "1", 0.3, 0.1)
    runs.loc[runs["tags.head"] == "flatten_dense", "calibration.resize_016px"] = math.nan
    _, by_size, _ = _tables(runs)
    assert by_size.columns == ("images", ">flatten_dense", ">average_pool", ">global_average_pool")
    assert by_size.rows == (("16 px, resized", "-", "0.2000", "0.2000"),)  # (.1 + .3) / 2; the first refuses.


def test_what_some_runs_did_not_record_is_left_open() -> None:
    runs = _study()
    earlier = (runs["tags.head"] == "flatten_dense") & (runs["params.seed"] == "0")
    new = ["metrics.test/balanced_accuracy", "metrics.test/calibration_error", "recall.cat", "recall.[/dog]"]
    runs.loc[earlier, new] = math.nan
    by_arm, by_class = _tables(runs)
    assert by_arm.rows[0] == ("flatten_dense", "0.9100", "-", "-", "-")
    assert by_arm.rows[1] == ("average_pool", "0.9100", "0.8100", "0.0400", "0.6600 ([/dog])")
    assert by_class.rows == (("[/dog]", "-", "0.6600", "0.6600"), ("cat", "-", "0.9600", "0.9600"))
    (only,) = _tables(study(seeds=2).assign(**{"metrics.test/top_5_accuracy": 0.99}))
    assert only.columns == ("arm", ">test accuracy", ">top-5 accuracy", ">lowest recall (class)")
    assert only.rows[0][2:] == ("0.9900", "-")


def test_of_many_classes_the_lowest_are_shown() -> None:
    many = {f"recall.{label}": 1 - label / 100 for label in range(MAX_CLASSES + 5)}
    _, by_class = _tables(study(seeds=2).assign(**{"metrics.test/balanced_accuracy": 0.8, **many}))
    assert [row[0] for row in by_class.rows] == [str(label) for label in range(24, 4, -1)]
    assert "lowest first; the first 20 of 25 classes." in by_class.caption


@pytest.mark.long
def test_every_medium_has_them_where_there_are_any(tmp_path: Path) -> None:
    write_snapshot(_study(), tmp_path / "runs.parquet")
    for runs in (_study(), read_snapshot(tmp_path / "runs.parquet")):
        report = make_report(runs, STATISTICS, WAYS, ASKS)
        terminal = Console(file=io.StringIO(), width=200)
        print_report(report, terminal)
        printed = terminal.file.getvalue()  # type: ignore[attr-defined]
        assert "Scores beside accuracy" in printed
        assert "0.6600 ([/dog])" in printed  # Not taken for markup.
        assert "| flatten_dense | 0.9100 | 0.8100 | 0.0400 | 0.6600 ([/dog]) |" in markdown_page(report)
        assert "| cat | 0.9600 | 0.9600 | 0.9600 |" in markdown_page(report)
        page = page_of(runs)
        assert ": scores beside accuracy</h2>" in page
        assert page.count("Recall: share of a class&#39;s test images") == 2  # Below the table of arms and of classes.


@pytest.mark.long
def test_the_report_on_earlier_runs_leaves_them_out() -> None:
    report = make_report(study(seeds=2), STATISTICS, WAYS, ASKS)
    assert [section.scores for section in report.sections] == [()]
    assert "ecall" not in markdown_page(report)
    assert "scores beside accuracy" not in page_of(study(seeds=2))
