"""A study's table and figure, from runs whose numbers are known."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from pipeline.compare import arms, size_figure, size_verdicts, study_table, summarize
from pipeline.heads import Verdict

NATIVE, ADAPTS, CROPS, REFUSES = Verdict.NATIVE, Verdict.ADAPTS, Verdict.CROPS, Verdict.REFUSES


@pytest.mark.parametrize(
    ("verdicts", "text"),
    [
        ({}, "not probed"),
        ({4: REFUSES, 6: REFUSES}, "refuses"),
        ({4: REFUSES, 6: NATIVE, 7: NATIVE}, "refuses (4 px), native (6–7 px)"),
        ({10: CROPS, 12: CROPS, 14: REFUSES}, "crops (10–12 px), refuses (14 px)"),
    ],
)
def test_neighbours_with_one_verdict_are_told_together(verdicts: dict[int, Verdict], text: str) -> None:
    assert summarize(verdicts) == text


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


def test_verdicts_are_read_from_tags_in_order_of_size() -> None:
    run = pd.Series(
        {"tags.size.104px": "adapts", "tags.size.016px": "crops", "tags.size.020px": None, "tags.head": "x"}
    )
    assert size_verdicts(run) == {16: CROPS, 104: ADAPTS}
    assert list(size_verdicts(run)) == [16, 104]


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
