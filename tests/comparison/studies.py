"""Studies that are made up: runs whose answers are known."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.container import ErrorbarContainer
from matplotlib.lines import Line2D

from pipeline.comparison.answers import pack
from pipeline.comparison.report.figures import figures
from pipeline.comparison.report.page import web_page
from pipeline.comparison.report.report import make_report
from pipeline.comparison.settings import About, Asks, Statistics
from pipeline.other_sizes.ways import WAYS

IMAGES = 2000
STATISTICS = Statistics()
ASKS = Asks(about=About.training_size)
POOLING = {"params.head.pool_size": "full", "params.head.padding": "valid"}
"""Of a head that is the same function as global average pooling."""


def run_row(head: str, seed: int, right: dict[str, np.ndarray], **columns: object) -> dict[str, object]:
    """A finished run with these answers by condition."""
    return {
        "run_id": f"{head}{seed}",
        "start_time": pd.Timestamp(2026, 1, 1),
        "tags.head": head,
        "tags.mlflow.runColor": "#0072B2",
        "tags.backbone": "small_fcn",
        "tags.dataset": "digits",
        "params.image_size": "8×8",
        "params.head": head,
        "params.head.name": head,
        "params.seed": str(seed),
        "tags.size.008px": "native",
        "tags.size.016px": "adapts" if "resize_016px" in right else "refuses",
        **{f"tags.pairing.{fact}": f"{fact} of {seed}" for fact in ("split", "batches", "backbone")},
        "metrics.test/accuracy": right["test"].mean(),
        "metrics.params/total": 68_138 if head == "flatten_dense" else 66_218,
        "metrics.params/head": 2_570 if head == "flatten_dense" else 650,
        "metrics.cost/flops": 1e6,
        "metrics.cost/memory_bytes": 2**20,
        "metrics.cost/ms_per_image": 1.0,
        **{f"answers.{condition}": pack(answers) for condition, answers in right.items()},
        **columns,
    }


def right_answers(share: float, seed: int) -> np.ndarray:
    """The easier images are right; which these are is the same for every arm and seed, but for a hundredth."""
    right = np.arange(IMAGES) < share * IMAGES
    return right ^ (np.random.default_rng(seed).random(IMAGES) < 0.01)


def study(seeds: int = 5, gap: float = 0.9, average: float = 0.9) -> pd.DataFrame:
    """Flatten + Dense gets 95 % right, each pooling head its share."""
    rows = []
    for seed in range(seeds):
        rows.append(run_row("flatten_dense", seed, {"test": right_answers(0.95, 3 * seed)}))
        rows.append(run_row("average_pool", seed, {"test": right_answers(average, 3 * seed + 1)}, **POOLING))
        right = {"test": right_answers(gap, 3 * seed + 2), "resize_016px": right_answers(0.5, seed)}
        rows.append(run_row("global_average_pool", seed, right, **{"params.head.keepdims": "False"}))
    return pd.DataFrame(rows)


def page_of(runs: pd.DataFrame, link: Callable[[str], str] | None = None) -> str:
    """The web page of the report on some runs."""
    report = make_report(runs, STATISTICS, WAYS, ASKS)
    drawn = [figures(section.group, STATISTICS, report.ways) for section in report.sections]
    return web_page(report, drawn, link)


def lines_of(axes: Axes) -> dict[str, Line2D]:
    """The lines of a figure, all of which have error bars, by their labels."""
    lines = {}
    for container in axes.containers:
        assert isinstance(container, ErrorbarContainer)
        lines[str(container.get_label())] = container.lines[0]
    return lines
