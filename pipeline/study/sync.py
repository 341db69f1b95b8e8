"""Runs that a tracking server lacks, brought to it and compared there."""

from __future__ import annotations

import logging
from pathlib import Path

from mlflow.entities import Run

from pipeline.common.errors import UserError
from pipeline.comparison.settings import Asks, Statistics
from pipeline.study.conclude import conclude, finished
from pipeline.study.links import show_run
from pipeline.tracking.queries import entities, registered_runs, runs_of_sweep, sweeps, trained_runs
from pipeline.tracking.server.replicate import is_replicated, replicate_all
from pipeline.tracking.settings import Tracking
from pipeline.tracking.store import open_store

log = logging.getLogger("pipeline")


def sync(study: str | None, statistics: Statistics, tracking: Tracking, output_path: Path) -> None:
    """Copies the runs that the server lacks, and compares there the studies that they belong to.

    Args:
        study: Whose runs alone are copied; None for all runs.
        statistics: How sure a verdict has to be.
        tracking: The server.
        output_path: The `output_dir` in which the runs are recorded.

    Raises:
        UserError: The server does not answer, or not to the end.
    """
    assert tracking.uri is not None
    uri = tracking.uri
    open_store(tracking, output_path)
    open_store(tracking.recorded, output_path, create=False)
    recorded = entities(trained_runs(study))
    lacking = [run for run in recorded if run.info.status != "RUNNING" and not is_replicated(uri, run)]
    # The sweeps that they belong to may have runs that the server has, and knows as those of earlier sweeps alone.
    incomplete = {sweep for run in lacking for sweep in sweeps(run)}
    # And a run's model may have been registered since the server has the run.
    registered = registered_runs()
    beside = [
        run
        for run in recorded
        if is_replicated(uri, run) and (incomplete & sweeps(run).keys() or run.info.run_id in registered)
    ]
    copies = replicate_all(uri, [*lacking, *beside], output_path)
    going_on = sum(run.info.status == "RUNNING" for run in recorded)
    copied = sum(run.info.run_id in copies for run in lacking)
    log.info("%d of %d runs copied to %s; it had %d", copied, len(lacking), uri, len(recorded) - len(lacking))
    if going_on:
        log.info("%d have not ended; they are copied when they have", going_on)
    if len(copies) < len(lacking) + len(beside):
        raise UserError(f"tracking.uri={uri}: the server did not take all runs. The same command brings it the rest.")
    if lacking:
        open_store(tracking, output_path)
        _show(lacking, copies, statistics, tracking, output_path)


def _show(
    runs: list[Run], copies: dict[str, str], statistics: Statistics, tracking: Tracking, output_path: Path
) -> None:
    """Compares the copies where they are now; sweep by sweep, in the order of the runs."""
    calls = [sweeps(run) for run in runs if run.info.status == "FINISHED"]
    newest = dict.fromkeys(max(since, key=since.__getitem__) for since in calls if since)
    for sweep in newest:
        conclude(finished(runs_of_sweep(sweep)), statistics, Asks(), tracking, output_path)
    if not newest:
        show_run(copies[runs[-1].info.run_id], tracking, output_path)
