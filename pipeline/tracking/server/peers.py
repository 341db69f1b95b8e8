"""Runs that other machines recorded on the same tracking server: done there, going on, or given up."""

from __future__ import annotations

import logging
import time

import mlflow
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from pipeline.common.names import Tag
from pipeline.tracking import store
from pipeline.tracking.identity import RunIdentity
from pipeline.tracking.resume import Trained, adopted, same_runs
from pipeline.tracking.server.replicate import BEAT_SECONDS
from pipeline.tracking.server.talk import ServerError, is_up, talking_to

log = logging.getLogger("pipeline")

SILENT_SECONDS = 12 * BEAT_SECONDS
"""A run whose heartbeat does not change for so long has lost its process."""


def finished_by_peer(identity: RunIdentity) -> Trained | None:
    """A run that another machine, with an `output_dir` of its own, has finished, if `rerun` does not ask for another.

    Waits for one that is going on there. One that has fallen silent is marked as killed, and None returned: the state
    of its training is where this machine cannot read it.
    """
    uri = identity.tracking.server
    if identity.rerun or uri is None or not is_up(uri):
        return None
    try:
        with talking_to(uri):
            return _finished_on(mlflow.MlflowClient(uri), identity)
    except ServerError as error:
        log.debug("%s", error)
        return None  # Trained without a server, it is trained twice at worst.


def _finished_on(server: MlflowClient, identity: RunIdentity) -> Trained | None:
    ours = mlflow.MlflowClient()
    experiment_id = store.experiment_id(server, identity.experiment)
    for run in same_runs(server, experiment_id, identity, "RUNNING"):
        if not _is_in(ours, run):
            log.info("Another machine is at this run, as %s on the server; waiting for it to end.", run.info.run_id)
            _wait_for_end(server, run)
    found = same_runs(server, experiment_id, identity, "FINISHED")
    return adopted(server, found[0], identity.sweep) if found else None


def _is_in(client: MlflowClient, run: Run) -> bool:
    """Whether a run on the server is the copy of one in our store, whose process is gone: we have it to ourselves."""
    try:
        client.get_run(run.data.tags[Tag.SOURCE])
    except (MlflowException, KeyError):
        return False
    return True


def _wait_for_end(server: MlflowClient, run: Run) -> None:
    """Returns when the run has ended, or has been silent for so long that it is marked as killed."""
    beat, since = run.data.tags.get(Tag.HEARTBEAT), time.monotonic()
    while run.info.status == "RUNNING":
        time.sleep(BEAT_SECONDS)
        run = server.get_run(run.info.run_id)
        if run.data.tags.get(Tag.HEARTBEAT) != beat:
            beat, since = run.data.tags.get(Tag.HEARTBEAT), time.monotonic()
        elif time.monotonic() - since > SILENT_SECONDS:
            server.set_tag(run.info.run_id, Tag.FAILURE, f"no heartbeat for {SILENT_SECONDS:.0f} s")
            server.set_terminated(run.info.run_id, "KILLED")
            return
