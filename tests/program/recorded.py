"""Committed snapshots as runs of an MLflow store, as if trained there: no test trains for its pictures."""

from __future__ import annotations

import math
import time
from pathlib import Path

import mlflow
import pandas as pd
from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag

from pipeline.common.condition import TEST, Condition
from pipeline.common.names import ANSWERS, SWEEP_RUNS, size_accuracy, sweep_tag
from pipeline.common.names import Metric as Name
from pipeline.comparison.answers import unpack
from pipeline.comparison.report.files import write_report
from pipeline.comparison.report.markdown import markdown_page
from pipeline.comparison.report.report import make_report
from pipeline.comparison.settings import Asks, Statistics
from pipeline.comparison.snapshot import read_snapshot
from pipeline.other_sizes.ways import WAYS
from pipeline.tracking.publish import name_runs, publish_views, record_report
from pipeline.tracking.queries import runs_of_sweep
from pipeline.tracking.store import experiment_id
from pipeline.tracking.views import run_link
from tests.conftest import ROOT

ONCE = ("train/", "val/")
"""Metrics of which a snapshot has the last epoch alone."""


def snapshot(study: str, seeds: int) -> pd.DataFrame:
    """The runs of a committed snapshot with the first seeds."""
    runs = read_snapshot(ROOT / "experiments" / "study" / f"{study}.parquet")
    return runs[runs["params.seed"].astype(int) < seeds].reset_index(drop=True)


def record(output_path: Path, runs: pd.DataFrame, sweep: str, began: float, asked: int, at_work: bool = False) -> None:
    """Records runs of a call, a minute each, one after the other.

    Args:
        output_path: With the store that MLflow points at.
        runs: See `snapshot`.
        sweep: Name of the call.
        began: When the first began, in seconds since 1970.
        asked: How many runs the call asks for.
        at_work: Whether the last of them has done two epochs and goes on.
    """
    client = MlflowClient()
    experiment = experiment_id(client, runs["tags.dataset"].iloc[0], (output_path / "artifacts").as_uri())
    for index, row in runs.iterrows():
        start = int(1000 * (began + 60 * int(index)))
        tags = {name.removeprefix("tags."): row[name] for name in runs if name.startswith("tags.")}
        tags |= {sweep_tag(sweep): f"{start / 1000:.3f}", sweep_tag(sweep, SWEEP_RUNS): str(asked)}
        name = f"{row['tags.head']} seed {row['params.seed']}"
        run_id = client.create_run(experiment, start, {key: str(tag) for key, tag in tags.items()}, name).info.run_id
        params = [Param(key.removeprefix("params."), str(row[key])) for key in runs if key.startswith("params.")]
        client.log_batch(run_id, [], params[:100], [RunTag("mlflow.user", "")])
        if at_work and index == len(runs) - 1:
            client.log_metric(run_id, Name.TRAIN_LOSS, 0.5, int(1000 * time.time()), step=2)
            continue
        client.log_batch(run_id, [*_metrics(row, start)])
        client.set_terminated(run_id, "FINISHED", start + 60_000)


def _metrics(row: pd.Series, start: int) -> list[Metric]:
    found = [
        Metric(key.removeprefix("metrics."), float(value), start, 0)
        for key, value in row.items()
        if key.startswith("metrics.") and not key.startswith("metrics.size/") and not math.isnan(value)
    ]
    for key, packed in row.items():
        condition = Condition.parse(key.removeprefix(ANSWERS)) if key.startswith(ANSWERS) else None
        if condition not in (None, TEST) and condition.mode and condition.height and packed is not None:
            accuracy = float(unpack(packed).mean())
            found.append(Metric(size_accuracy(condition.mode), accuracy, start, condition.height))
            found.append(Metric(Name.SIZE_PX, condition.height, start, condition.height))
    return found


def compare(output_path: Path, runs: pd.DataFrame, sweep: str) -> Path:
    """Compares what `record` has recorded, as the end of a study does; returns the report's page."""
    directory = output_path / "studies" / sweep
    recorded = runs_of_sweep(sweep)
    known = runs.assign(run_id=recorded["run_id"].to_numpy(), experiment_id=recorded["experiment_id"].to_numpy())
    report = make_report(known, Statistics(), WAYS, Asks())
    experiment = str(recorded["experiment_id"].iloc[0])
    write_report(report, known, directory, lambda run_id: run_link("http://127.0.0.1:5000", experiment, run_id))
    name_runs([arm for section in report.sections for arm in section.group.arms])
    record_report(experiment, recorded, markdown_page(report), directory)
    publish_views(recorded, report.answer)
    return directory / "report.html"


def copy_store(empty_store: Path, output_path: Path) -> None:
    """An `output_dir` with a store without runs, at which MLflow points from now on."""
    (output_path / empty_store.name).write_bytes(empty_store.read_bytes())
    mlflow.set_tracking_uri(f"sqlite:///{output_path / empty_store.name}")
