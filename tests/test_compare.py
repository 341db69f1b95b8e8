"""A study's table and figure, from runs whose numbers are known."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from pipeline.compare import arms, size_figure, study_table
from tests.conftest import run_program


def _runs() -> pd.DataFrame:
    """Two heads with two seeds each."""
    return pd.DataFrame(
        {
            "run_id": ["a0", "b0", "a1", "b1"],
            "tags.head": ["pool", "flat", "pool", "flat"],
            "tags.mlflow.runColor": ["#0072B2", "#D55E00"] * 2,
            "params.image_size": ["8×8"] * 4,
            "metrics.test/accuracy": [0.90, 0.80, 0.94, 0.80],
            "metrics.params/total": [66_218, 68_138] * 2,
            "metrics.params/head": [650, 2_570] * 2,
            "tags.size.004px": ["adapts", "refuses"] * 2,
            "tags.size.008px": ["native"] * 4,
            "tags.size.016px": ["adapts", "refuses"] * 2,
        }
    )


def test_the_table_gives_mean_and_spread_over_the_seeds() -> None:
    console = Console(width=140, record=True)
    console.print(study_table(_runs(), "a title"))
    rows = [
        [cell.strip() for cell in line.split("│")[1:-1]] for line in console.export_text().splitlines() if "│" in line
    ]
    # Standard deviation of 0.90 and 0.94: √((0.02² + 0.02²) / 1) = 0.0283
    assert rows == [
        ["pool", "2", "0.9200 ± 0.0283", "66,218", "650", "adapts", "adapts"],
        ["flat", "2", "0.8000 ± 0.0000", "68,138", "2,570", "refuses", "refuses"],
    ]


def test_runs_that_differ_in_more_than_the_seed_are_not_averaged() -> None:
    runs = _runs().assign(
        **{"params.head.strides": ["[1, 1]", None, "[2, 2]", None], "params.seed": ["0", "0", "1", "1"]}
    )
    assert [(label, arm["run_id"].tolist()) for label, arm in arms(runs)] == [
        ("pool head.strides=[1, 1]", ["a0"]),
        ("pool head.strides=[2, 2]", ["a1"]),
        ("flat", ["b0", "b1"]),
    ]


def test_arms_of_a_study_go_by_their_names() -> None:
    runs = _runs().assign(
        **{"params.arm": ["None", "flatten", "None", "flatten_dropout"], "params.head.dropout": ["0", "0", "0", "0.5"]}
    )
    assert [(label, arm["run_id"].tolist()) for label, arm in arms(runs)] == [
        ("pool", ["a0", "a1"]),
        ("flatten", ["b0"]),
        ("flatten_dropout", ["b1"]),
    ]


def test_the_figure_has_a_line_a_head_and_gaps_where_refused() -> None:
    accuracies = {"a0": [0.5, 0.9, 0.7], "a1": [0.7, 0.94, 0.7], "b0": [math.nan, 0.8, math.nan]}
    accuracies["b1"] = accuracies["b0"]
    histories = {
        run: {f"size/{mode}/accuracy": dict(zip((4, 8, 16), values, strict=True)) for mode in ("resize", "canvas")}
        for run, values in accuracies.items()
    }
    figure = size_figure(_runs(), histories, "a title")
    for axis in figure.axes:
        pool, flat = (container.lines[0] for container in axis.containers)
        assert pool.get_xdata().tolist() == [4, 8, 16]
        assert pool.get_ydata() == pytest.approx([0.6, 0.92, 0.7])  # means of the two seeds
        assert np.isnan(flat.get_ydata()).tolist() == [True, False, True]
        assert [container.get_label() for container in axis.containers] == ["pool", "flat"]
        assert axis.get_xlabel() == "image height / px"


def test_a_study_can_be_compared_at_any_time(tiny_study: Path) -> None:
    result = run_program("pipeline.compare", "study=heads", cwd=tiny_study)
    assert result.returncode == 0, result.stderr
    printed = (tiny_study / "stdout.txt").read_text()
    assert result.stdout.split() == printed[printed.index("small_fcn on digits at") :].split()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["study=haeds"],
            "no run was recorded under this name. Recorded studies: heads. Did you mean heads?",
        ),
        (["study=heads", "sweep=x"], "sweep=x: no run was recorded under this name. Recorded studies: heads."),
        (["study=heads", "output_dir=elsewhere"], "elsewhere: holds no results: there is no mlflow.db."),
        ([], "study=???: has no value. Give one, as in study=VALUE."),
        (["study=heads", "sede=1"], "sede=1: there is no such setting."),
    ],
)
def test_what_cannot_be_compared_is_named(tiny_study: Path, arguments: list[str], message: str) -> None:
    result = run_program("pipeline.compare", *arguments, cwd=tiny_study)
    assert result.returncode == 2
    assert message in result.stderr
    assert "Traceback" not in result.stderr
