"""Copies runs from the store in `output_dir`, where each is recorded first, to a tracking server.

So no server that dies, hangs or answers with errors stops a training or costs it a result. Whatever a server lacks is
brought to it later; copying twice changes nothing.
"""

from __future__ import annotations

import logging
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import mlflow
from filelock import FileLock
from mlflow import MlflowClient
from mlflow.entities import LoggedModel, LoggedModelOutput, Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException

from pipeline.common.errors import UserError, class_and_first_line
from pipeline.common.names import Tag
from pipeline.tracking import store
from pipeline.tracking.resume import FOLDER
from pipeline.tracking.server.talk import is_up, talking_to
from pipeline.tracking.settings import Tracking
from pipeline.tracking.whole_models import whole_models

log = logging.getLogger("pipeline")

BEAT_SECONDS = 5.0
"""From one update of the copy to the next."""
LAST_WORDS_SECONDS = 5.0
"""So long a run that was interrupted waits for the server."""
BATCH = {"metrics": 1000, "params": 100, "tags": 100}
"""Most entities that MLflow's REST interface takes at once."""


class RunCopy:
    """A run and its copy in another store.

    Args:
        source: Client of the run's store.
        target: Client of the other store.
        run_id: Of the run, in its own store.
    """

    def __init__(self, source: MlflowClient, target: MlflowClient, run_id: str) -> None:
        self._source, self._target, self._run_id = source, target, run_id
        self._copy_id: str | None = None
        self._sent: set[tuple[str, int, int, str]] = set()

    def update(self) -> str:
        """Copies params, tags and metrics that the copy lacks, with a sign of life. Returns the copy's id."""
        run = self._source.get_run(self._run_id)
        copy = self._copy(run)
        copy_id = copy.info.run_id
        params = [Param(*item) for item in run.data.params.items() if item[0] not in copy.data.params]
        wanted = _tags(run, copy_id)
        tags = [RunTag(*item) for item in wanted.items() if copy.data.tags.get(item[0]) != item[1]]
        points = [point for point in _points(self._source, run) if _identity(point) not in self._sent]
        metrics = [Metric(point.key, point.value, point.timestamp, point.step) for point in points]
        for kind, entities in (("params", params), ("tags", tags), ("metrics", metrics)):
            for some in _batches(entities, BATCH[kind]):
                self._target.log_batch(copy_id, **{kind: some})
        self._sent |= {_identity(point) for point in points}
        if Tag.FAILURE in copy.data.tags and Tag.FAILURE not in wanted:
            self._target.delete_tag(copy_id, Tag.FAILURE)
        if run.info.status == "RUNNING" and copy.info.status != "RUNNING":
            self._target.update_run(copy_id, status="RUNNING")
        return copy_id

    def update_late(self, copy_id: str) -> str:
        """Copies what may change after a run's end: tags, and versions in the model registry. Returns the copy's id."""
        tags = _tags(self._source.get_run(self._run_id), copy_id)
        self._target.log_batch(copy_id, tags=[RunTag(*item) for item in tags.items()])
        self._copy_versions(copy_id)
        return copy_id

    def complete(self) -> str:
        """Copies all of a run that has ended, its end last. Returns the copy's id."""
        copy_id = self.update()
        run, copy = self._source.get_run(self._run_id), self._target.get_run(copy_id)
        if run.inputs.dataset_inputs:  # The server leaves out what it has already.
            store.tried_twice(partial(self._target.log_inputs, copy_id, run.inputs.dataset_inputs))
        if self._source.list_artifacts(self._run_id):
            self._target.log_artifacts(copy_id, self._source.download_artifacts(self._run_id, ""))
        steps = {output.model_id: output.step for output in run.outputs.model_outputs} if run.outputs else {}
        for model in whole_models(self._source, run):
            self._copy_model(model, copy, steps[model.model_id])
        self._copy_versions(copy_id)
        if run.info.status != "RUNNING":  # It may be one whose process was killed.
            self._target.set_terminated(copy_id, run.info.status, run.info.end_time)
        return copy_id

    def _copy(self, run: Run) -> Run:
        if self._copy_id is not None:
            return self._target.get_run(self._copy_id)
        name = self._source.get_experiment(run.info.experiment_id).name
        experiment_id = store.experiment_id(self._target, name)
        found = self._target.search_runs([experiment_id], f"tags.{Tag.SOURCE} = '{self._run_id}'")
        if found:
            copy = found[0]
            self._sent = {_identity(point) for point in _points(self._target, copy)}
        else:
            # With its tags at once: if the process is killed right after, others still know what run this was.
            tags = {**_tags(run, self._run_id), Tag.SOURCE: self._run_id}
            copy = self._target.create_run(experiment_id, run.info.start_time, tags, run.info.run_name)
        self._copy_id = copy.info.run_id
        return copy

    def _copy_model(self, model: LoggedModel, copy: Run, step: int) -> None:
        """Copies a run's recorded model, once."""
        experiment_id, run_id = copy.info.experiment_id, copy.info.run_id
        copied = self._copied_model(experiment_id, model.model_id)
        if copied is None or copied.status != "READY":
            copied = copied or self._target.create_logged_model(
                experiment_id, model.name, run_id, {Tag.SOURCE: model.model_id}, model.params, model.model_type
            )
            with tempfile.TemporaryDirectory() as directory:
                files = shutil.copytree(_local_files(model.artifact_location), Path(directory) / "model")
                about = files / "MLmodel"
                names = {
                    model.model_id: copied.model_id,
                    self._run_id: run_id,
                    model.artifact_location: copied.artifact_location,
                }
                text = about.read_text()
                for old, new in names.items():
                    text = text.replace(old, new)
                about.write_text(text)
                self._target.log_model_artifacts(copied.model_id, str(files))
            self._target.finalize_logged_model(copied.model_id, "READY")
        known = copy.outputs.model_outputs if copy.outputs else []
        if copied.model_id not in {output.model_id for output in known}:
            self._target.log_outputs(run_id, [LoggedModelOutput(copied.model_id, step)])

    def _copied_model(self, experiment_id: str, model_id: str) -> LoggedModel | None:
        """The copy of a recorded model; None if there is none yet."""
        tag = f"tags.{Tag.SOURCE} = '{model_id}'"
        found = self._target.search_logged_models([experiment_id], filter_string=tag, max_results=1)
        return found[0] if found else None

    def _copy_versions(self, copy_id: str) -> None:
        """Copies the versions of the run's models in the model registry, once."""
        for version in self._source.search_model_versions(f"run_id = '{self._run_id}'"):
            if self._target.search_model_versions(f"name = '{version.name}' and run_id = '{copy_id}'"):
                continue
            experiment_id = self._target.get_run(copy_id).info.experiment_id
            # Found by search, a version has no model_id.
            copied = self._copied_model(experiment_id, str(version.source).removeprefix("models:/"))
            if copied is not None:
                _register_copy(self._target, version.name, copied.model_id, copy_id, version.tags)


class Replicator(threading.Thread):
    """Keeps the copy of a run on a tracking server up to date, off the path of the training.

    Args:
        uri: Of the server.
        run_id: Of the run, in the store that MLflow points at.
    """

    def __init__(self, uri: str, run_id: str) -> None:
        super().__init__(name="replicator", daemon=True)  # A server that hangs does not keep the process.
        self._uri, self._run_id = uri, run_id
        self._copy = RunCopy(mlflow.MlflowClient(), mlflow.MlflowClient(uri), run_id)
        self._ended = threading.Event()
        self._answered = True
        self.start()

    def run(self) -> None:
        self._try(self._copy.update)
        while not self._ended.wait(BEAT_SECONDS):
            self._try(self._copy.update)
        self._try(lambda: replicate(self._uri, self._run_id, self._copy))

    def finish(self, seconds: float | None = None) -> None:
        """Copies the rest of the run, which has ended; waits while the server answers, but for so long at most."""
        self._ended.set()
        self.join(seconds)

    def _try(self, what: Callable[[], Any]) -> None:
        answered = is_up(self._uri)
        try:
            if answered:
                with talking_to(self._uri):
                    what()
        except UserError as error:
            log.debug("%s", error)
            answered = False
        if self._answered and not answered:
            log.warning("  tracking.uri=%s does not answer; going on, recorded in output_dir", self._uri)
        elif answered and not self._answered:
            log.info("  tracking.uri=%s answers again", self._uri)
        self._answered = answered


def replicate(uri: str, run_id: str, copy: RunCopy | None = None) -> str:
    """Copies a run to the server, if it does not have all of it yet. Returns the copy's id.

    Args:
        uri: Of the server.
        run_id: Of the run, in the store that MLflow points at.
        copy: If there is one at hand.
    """
    source = mlflow.MlflowClient()
    copy = copy or RunCopy(source, mlflow.MlflowClient(uri), run_id)
    run = source.get_run(run_id)
    if is_replicated(uri, run):
        return copy.update_late(run.data.tags[Tag.REPLICATED].split()[-1])
    copy_id = copy.complete()
    source.set_tag(run_id, Tag.REPLICATED, f"{_replicated(uri, run)}{copy_id}")
    return copy_id


def replicate_all(uri: str, runs: Iterable[Run], output_path: Path) -> dict[str, str]:
    """Copies runs that have ended to the server, as far as it answers.

    Args:
        uri: Of the server.
        runs: Of the store that MLflow points at.
        output_path: The `output_dir` that has this store.

    Returns:
        The ids of the copies by those of the runs.
    """
    copies: dict[str, str] = {}
    for run in runs:
        if run.info.status == "RUNNING":
            continue
        if not is_up(uri):
            break
        try:
            with _alone(output_path, run.info.run_id), talking_to(uri):
                copies[run.info.run_id] = replicate(uri, run.info.run_id)
        except UserError as error:
            what = class_and_first_line(error.__cause__ or error)
            log.warning("  %s was not copied to %s: %s", run.info.run_name, uri, what)
    return copies


def is_replicated(uri: str, run: Run) -> bool:
    """Whether the server has all of a run of the store in `output_dir`."""
    return run.info.status != "RUNNING" and run.data.tags.get(Tag.REPLICATED, "").startswith(_replicated(uri, run))


@contextmanager
def following(tracking: Tracking, output_path: Path) -> Iterator[Callable[[str], None]]:
    """Lets the tracking server, if there is one, follow a run from its start to its end, both within the block.

    Yields:
        To be called with the id of the run when it has started.
    """
    with ExitStack() as stack:
        replicators: list[Replicator] = []

        def follow(run_id: str) -> None:
            if tracking.server is not None:
                stack.enter_context(_alone(output_path, run_id))
                replicators.append(Replicator(tracking.server, run_id))

        patience = None
        try:
            yield follow
        except (KeyboardInterrupt, SystemExit):
            patience = LAST_WORDS_SECONDS
            raise
        finally:
            for replicator in replicators:
                replicator.finish(patience)


def _alone(output_path: Path, run_id: str) -> FileLock:
    """Keeps the copying of a run to one process at a time."""
    return FileLock(output_path / FOLDER / f"delivery-{run_id}.lock")


def _replicated(uri: str, run: Run) -> str:
    return f"{uri} {run.info.status} {run.info.end_time} "


def _register_copy(client: MlflowClient, name: str, model_id: str, run_id: str, tags: dict[str, str]) -> None:
    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    client.create_model_version(name, f"models:/{model_id}", run_id, tags, model_id=model_id)


def _local_files(artifact_location: str) -> str:
    return mlflow.artifacts.download_artifacts(artifact_uri=artifact_location)


def _tags(run: Run, copy_id: str) -> dict[str, str]:
    """Tags of a run as its copy has them; a description has links to the run's own pictures."""
    tags = {key: text.replace(run.info.run_id, copy_id) for key, text in run.data.tags.items() if key != Tag.REPLICATED}
    return {**tags, Tag.HEARTBEAT: str(time.time_ns())}


def _points(client: MlflowClient, run: Run) -> list[Any]:
    return [point for key in run.data.metrics for point in client.get_metric_history(run.info.run_id, key)]


def _identity(point: Any) -> tuple[str, int, int, str]:
    return point.key, point.step, point.timestamp, repr(float(point.value))  # NaN is equal to itself.


def _batches(entities: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    for begin in range(0, len(entities), size):
        yield entities[begin : begin + size]
