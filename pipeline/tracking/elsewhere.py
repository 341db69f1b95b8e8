"""Runs that other machines recorded on the same tracking server: done there, going on, or given up."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from pipeline.tracking import store
from pipeline.tracking.delivery import BEAT_SECONDS, HEARTBEAT_TAG, SOURCE_TAG, answers
from pipeline.tracking.resume import FAILURE_TAG, Trained, adopted, runs

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

    from pipeline.config import Config
    from pipeline.data import DatasetFacts

log = logging.getLogger("pipeline")

SILENT_SECONDS = 12 * BEAT_SECONDS
"""A run whose heartbeat does not change for so long has lost its process."""


def finished_elsewhere(config: Config, facts: DatasetFacts, key: str, sweep: str | None) -> Trained | None:
    """A run that another machine, with an `output_dir` of its own, has finished, if `rerun` does not ask for another.

    Waits for one that is going on there. One that has fallen silent is marked as killed, and None returned: the state
    of its training is where this machine cannot read it.
    """
    uri = config.tracking.uri
    if config.rerun or not config.tracking.is_server or uri is None or not answers(uri):
        return None
    import mlflow

    ours, server = mlflow.MlflowClient(), mlflow.MlflowClient(uri)
    try:
        experiment_id = store.experiment_id(server, config.tracking.experiment or facts.name)
        for run in runs(server, experiment_id, config, key, "= 'RUNNING'"):
            if not _is_in(ours, run):
                log.info("Another machine is at this run, as %s on the server; waiting for it to end.", run.info.run_id)
                _wait_for_end(server, run)
        found = runs(server, experiment_id, config, key, "= 'FINISHED'")
        return adopted(server, found[0], sweep) if found else None
    except mlflow.MlflowException as error:
        log.debug("tracking.uri=%s: %s", uri, error)
        return None  # Trained without a server, it is trained twice at worst.


def _is_in(client: MlflowClient, run: Run) -> bool:
    """Whether a run on the server is the copy of one in our store; whose process is gone, as we hold the claim."""
    from mlflow.exceptions import MlflowException

    try:
        client.get_run(run.data.tags[SOURCE_TAG])
    except (MlflowException, KeyError):
        return False
    return True


def _wait_for_end(server: MlflowClient, run: Run) -> None:
    """Returns when the run has ended, or has been silent for so long that it is marked as killed."""
    beat, since = run.data.tags.get(HEARTBEAT_TAG), time.monotonic()
    while run.info.status == "RUNNING":
        time.sleep(BEAT_SECONDS)
        run = server.get_run(run.info.run_id)
        if run.data.tags.get(HEARTBEAT_TAG) != beat:
            beat, since = run.data.tags.get(HEARTBEAT_TAG), time.monotonic()
        elif time.monotonic() - since > SILENT_SECONDS:
            server.set_tag(run.info.run_id, FAILURE_TAG, f"no heartbeat for {SILENT_SECONDS:.0f} s")
            server.set_terminated(run.info.run_id, "KILLED")
            return
