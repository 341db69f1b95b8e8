"""The models of a run whose files are all there."""

from __future__ import annotations

from contextlib import suppress

from mlflow import MlflowClient
from mlflow.entities import LoggedModel, LoggedModelStatus, Run
from mlflow.exceptions import MlflowException


def whole_models(client: MlflowClient, run: Run) -> list[LoggedModel]:
    """The models of a run that were recorded to their end, the newest last.

    A process that is killed while it records one leaves it without its files, or with some of them.
    """
    found = [model for model in _models(client, run) if model.status == LoggedModelStatus.READY]
    return sorted(found, key=lambda model: (model.creation_timestamp, model.model_id))


def give_up_unfinished_models(client: MlflowClient, run: Run) -> None:
    """Marks the other models of a run as failed: it goes on, and will record another."""
    for model in _models(client, run):
        if model.status != LoggedModelStatus.READY:
            client.finalize_logged_model(model.model_id, LoggedModelStatus.FAILED)


def _models(client: MlflowClient, run: Run) -> list[LoggedModel]:
    found = []
    for output in run.outputs.model_outputs if run.outputs else []:
        with suppress(MlflowException):  # Somebody has deleted it.
            found.append(client.get_logged_model(output.model_id))
    return found
