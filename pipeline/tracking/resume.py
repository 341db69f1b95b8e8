"""Which runs are done, and which were interrupted: by the digest of what determines a run's result."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import mlflow
import pandas as pd
from filelock import FileLock, Timeout
from mlflow import MlflowClient
from mlflow.entities import Run

from pipeline.common.errors import UserError
from pipeline.common.files import remove_leftovers
from pipeline.common.names import Metric, Param, Tag
from pipeline.tracking.identity import RunIdentity
from pipeline.tracking.queries import membership, validation_accuracies
from pipeline.tracking.store import experiment_for
from pipeline.training.state_files import state_files

log = logging.getLogger("pipeline")

FOLDER = "unfinished"
"""In `output_dir`: states of trainings that have not ended yet, and locks on them."""


@dataclass(frozen=True)
class Trained:
    """A finished run.

    Attributes:
        run_id: MLflow's.
        validation_accuracy: Of the weights that it kept; NaN without validation images.
    """

    run_id: str
    validation_accuracy: float


def state_file(output_path: Path, key: str) -> Path:
    """Where a training's state is kept until its run has ended without an error."""
    return output_path / FOLDER / f"{key}.npz"


@contextmanager
def exclusive(output_path: Path, key: str) -> Iterator[Path]:
    """Keeps a run to one process at a time; others with the same `output_dir` wait.

    Args:
        output_path: The `output_dir`.
        key: See `identity.run_key`.

    Yields:
        The `state_file`, which is gone when the block has ended without an error.
    """
    state = state_file(output_path, key)
    lock_file = state.with_suffix(".lock")
    lock_file.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(lock_file)
    try:
        try:
            lock.acquire(blocking=False)
        except Timeout:
            log.info("Another process is at this run; waiting for it to end.")
            lock.acquire()
    except OSError as error:
        raise UserError(
            f"output_dir={output_path}: {lock_file} cannot be locked: {error}. Use a directory that can be written to."
        ) from error
    with lock:
        remove_leftovers(state.parent)
        yield state
        for file in state_files(state):
            file.unlink(missing_ok=True)
        # Whoever waits for it will find that the run is finished.
        lock_file.unlink(missing_ok=True)


def finished_run(identity: RunIdentity) -> Trained | None:
    """A run that has done the same before, if `rerun` does not ask for another; it now belongs to this sweep, too."""
    if identity.rerun:
        return None
    client = mlflow.MlflowClient()
    found = same_runs(client, recorded_experiment(identity), identity, "FINISHED")
    return adopted(client, found[0], identity.sweep) if found else None


def adopted(client: MlflowClient, run: Run, sweep: str | None) -> Trained:
    """A finished run, which now belongs to a sweep, too, if there is one."""
    if sweep is not None:
        client.set_tag(run.info.run_id, *membership(sweep))
    kept = run.data.metrics.get(Metric.KEPT_EPOCH, 0)
    accuracies = validation_accuracies(client, run.info.run_id)
    return Trained(run.info.run_id, accuracies.get(int(kept), math.nan))


def unfinished_run(identity: RunIdentity) -> Run | None:
    """MLflow's newest run of the same if it was interrupted or failed, so that it goes on; else None.

    With `rerun`, too, which asks for another run of what has finished. Only for who has the run to itself (see
    `exclusive`): what MLflow takes for running has then lost its process.
    """
    found = same_runs(mlflow.MlflowClient(), recorded_experiment(identity), identity)
    return found[0] if found and found[0].info.status != "FINISHED" else None


def end_open_runs(runs: pd.DataFrame, reason: str) -> None:
    """Marks runs as KILLED that were not ended by their own processes, which are gone.

    Args:
        runs: As `mlflow.search_runs` gives them.
        reason: Why they are gone.
    """
    client = mlflow.MlflowClient()
    for run_id in runs["run_id"][runs["status"] == "RUNNING"] if len(runs) else ():
        client.set_tag(run_id, Tag.FAILURE, reason)
        client.set_terminated(run_id, "KILLED")


def same_runs(client: MlflowClient, experiment_id: str, identity: RunIdentity, status: str | None = None) -> list[Run]:
    """Runs of an experiment that are the same, the newest first; those of a status, or all."""
    of_status = f" and attributes.status = '{status}'" if status else ""
    found = client.search_runs(
        [experiment_id],
        f"tags.{Tag.RUN_KEY} = '{identity.key}'{of_status}",
        order_by=["attributes.start_time DESC"],
    )
    # A run belongs to one study and one arm of it, whatever else has the same settings. On a server, params come last.
    arm = str(identity.arm)
    return [
        run
        for run in found
        if run.data.tags.get(Tag.STUDY) == identity.study and run.data.params.get(Param.ARM, arm) == arm
    ]


def recorded_experiment(identity: RunIdentity) -> str:
    """The id of the experiment that a run is recorded in."""
    return experiment_for(identity.experiment, identity.tracking, identity.output_path)
