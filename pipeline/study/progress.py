"""A line for each run of a sweep that has ended: what it gave, and how long the others will take."""

from __future__ import annotations

import logging
import time
from contextlib import suppress

from mlflow.exceptions import MlflowException

from pipeline.common.names import Metric, Tag
from pipeline.tracking.progress import Progress, left_text
from pipeline.tracking.queries import runs_of_sweep

log = logging.getLogger("pipeline")


def tell_progress(run_id: str, sweep: str) -> None:
    """Says of a run that has ended, also long before: `run 4 of 9 · pool seed 1 · test accuracy 0.9072 · about …`.

    Args:
        run_id: MLflow's; of a run that another machine has recorded, nothing is said.
        sweep: The name of the sweep that it belongs to.
    """
    with suppress(MlflowException):  # It is shown, and no more: the run does without.
        members = runs_of_sweep(sweep).to_dict("records")
        row = next((row for row in members if row["run_id"] == run_id), None)
        if row is None:
            return
        progress = Progress.of(members, sweep, time.time())
        parts = [
            f"run {progress.ended}" + (f" of {progress.asked}" if progress.asked else ""),
            row[Tag.RUN_NAME.column],
            f"test accuracy {row[Metric.TEST_ACCURACY.column]:.4f}",
        ]
        if progress.asked is not None and progress.ended < progress.asked:
            parts.append(left_text(progress.seconds_left))
        log.info("%s", " · ".join(filter(None, parts)))
