"""A run that was killed while its model was recorded goes on, and can be delivered."""

from __future__ import annotations

from pathlib import Path

import mlflow
import pytest
from mlflow import MlflowClient
from mlflow.entities import LoggedModelOutput, LoggedModelStatus

from pipeline.tracking.server.replicate import RunCopy
from pipeline.tracking.settings import Tracking
from pipeline.tracking.store import experiment_id, open_store
from pipeline.tracking.whole_models import give_up_unfinished_models, whole_models


@pytest.mark.slow
def test_a_model_without_its_files_is_given_up_and_no_delivery_waits_for_it(tmp_path: Path) -> None:
    open_store(Tracking(), tmp_path / "outputs")
    client = MlflowClient()
    experiment = experiment_id(client, "digits", (tmp_path / "artifacts").as_uri())
    run_id = client.create_run(experiment).info.run_id

    def record(files: bool) -> str:
        """Records a model, or begins to."""
        model = client.create_logged_model(experiment, "model", run_id)
        client.log_outputs(run_id, [LoggedModelOutput(model.model_id, 0)])
        if files:
            folder = tmp_path / model.model_id
            folder.mkdir()
            (folder / "MLmodel").write_text(f"model_id: {model.model_id}\nrun_id: {run_id}\n")
            client.log_model_artifacts(model.model_id, str(folder))
            client.finalize_logged_model(model.model_id, LoggedModelStatus.READY)
        return str(model.model_id)

    killed = record(files=False)
    assert whole_models(client, client.get_run(run_id)) == []
    give_up_unfinished_models(client, client.get_run(run_id))
    assert client.get_logged_model(killed).status == LoggedModelStatus.FAILED
    first, second = record(files=True), record(files=True)
    give_up_unfinished_models(client, client.get_run(run_id))  # What is whole stays.
    whole = [model.model_id for model in whole_models(client, client.get_run(run_id))]
    assert sorted(whole) == sorted([first, second])
    times = [client.get_logged_model(model_id).creation_timestamp for model_id in whole]
    assert times == sorted(times)
    client.set_terminated(run_id)
    # Delivery to another store, in place of a server.
    server = f"sqlite:///{tmp_path / 'server.db'}"
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(tmp_path)
        copy_id = RunCopy(client, MlflowClient(server), run_id).complete()
        copied = MlflowClient(server).get_run(copy_id)
        assert len(whole_models(MlflowClient(server), copied)) == 2
    assert copied.info.status == "FINISHED"
    assert mlflow.get_tracking_uri().endswith("mlflow.db")
