"""What a probe of a trained model leaves: a picture and a table in files, and a run in MLflow."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
from matplotlib.figure import Figure
from mlflow import entities

from pipeline.common.condition import Mode
from pipeline.common.files import atomic_write
from pipeline.common.names import File, Metric, Tag, size_accuracy, size_tag
from pipeline.common.signals import deferred
from pipeline.common.size import TrainedSize, size_text
from pipeline.other_sizes.probe import ProbedSize
from pipeline.tracking.server.replicate import following
from pipeline.tracking.settings import Tracking
from pipeline.tracking.store import experiment_for, server_address
from pipeline.tracking.views import artifact_address, run_link


def probe_table(probed: Sequence[ProbedSize], names: Sequence[str]) -> pd.DataFrame:
    """A row for each size, way and mode; without accuracy where the way does not take the size."""
    rows = []
    for result in probed:
        for name in names:
            for mode in Mode:
                score = result.scores.get(name, {}).get(mode)
                low, high = (None, None) if score is None else score.interval
                rows.append(
                    {
                        "height_px": result.size[0],
                        "width_px": result.size[1],
                        "feature_map": size_text(result.map_size) if result.map_size else None,
                        "verdict": result.verdict.value,
                        "seen_fraction": result.seen_fraction,
                        "seen_pixels": result.seen_pixels,
                        "reason": result.reason,
                        "way": name or "as_is",
                        "mode": mode.value,
                        "images": None if score is None else len(score.right),
                        "accuracy": None if score is None else score.accuracy,
                        "low": low,
                        "high": high,
                    }
                )
    return pd.DataFrame(rows)


@deferred()
def write_probe(table: pd.DataFrame, figure: Figure, directory: Path) -> None:
    """Writes table and picture into a directory, each whole or not at all; those of an earlier probe are replaced."""
    with atomic_write(directory / File.PROBE_TABLE) as beside:
        beside.write_text(_json(table))
    with atomic_write(directory / File.PROBE_FIGURE) as beside:
        figure.savefig(beside, dpi=150)


def record_probe(
    experiment: str,
    model: str,
    params: dict[str, Any],
    size: TrainedSize,
    probed: Sequence[ProbedSize],
    names: Sequence[str],
    directory: Path,
    text: str,
    tracking: Tracking,
    output_path: Path,
) -> str:
    """Records a probe in the store that is open as one run, which is not taken for a training: it has no head.

    Args:
        experiment: Name of the MLflow experiment.
        model: As it was typed.
        params: What else was set.
        size: Of the training images.
        probed: By size.
        names: Of the ways.
        directory: Whose files are recorded.
        text: The result in Markdown, for the run's page.
        tracking: Where; with a server, in the store of `output_path` first, and from there.
        output_path: The `output_dir`.

    Returns:
        Address of the run's page.
    """
    experiment_id = experiment_for(experiment, tracking, output_path)
    now = int(time.time() * 1000)
    metrics, tags = [], []
    for result in probed:
        height = result.size[0]
        values: dict[str, float] = {Metric.SIZE_PX: height, Metric.SEEN_PIXELS: result.seen_pixels}
        if result.seen_fraction is not None:
            values[Metric.SEEN_FRACTION] = result.seen_fraction
        for name in names:
            for mode in Mode:
                score = result.scores.get(name, {}).get(mode)
                values[size_accuracy(mode, name)] = math.nan if score is None else score.accuracy
        metrics += [entities.Metric(key, value, now, height) for key, value in values.items()]
        tags.append(entities.RunTag(size_tag(height), result.verdict.value))
    with following(tracking, output_path) as follow, deferred():
        started = {str(Tag.PROBE): model}
        with mlflow.start_run(
            experiment_id=experiment_id, run_name=f"probe of {Path(model).name}", tags=started
        ) as run:
            run_id = run.info.run_id
            follow(run_id)
            mlflow.log_params({"model": model, **params, **size.params()})
            mlflow.MlflowClient().log_batch(run_id, metrics=metrics, tags=tags)
            mlflow.log_artifacts(str(directory))
            picture = f"![Accuracy by image size]({artifact_address(run_id, File.PROBE_FIGURE)})"
            mlflow.set_tag(Tag.DESCRIPTION, f"{text}\n\n{picture}")
    return run_link(server_address(tracking.recorded), experiment_id, run_id)


def _json(table: pd.DataFrame) -> str:
    return str(table.astype(object).to_json(orient="split", index=False, double_precision=15))
