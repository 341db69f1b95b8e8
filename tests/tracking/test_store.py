"""The store, and what goes wrong with it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import mlflow
import pytest
from mlflow import MlflowClient

from pipeline.errors import ConfigError, UserError
from pipeline.tracking.store import Tracking, experiment_id, open_store, server_address
from tests.conftest import ROOT


def test_first_users_of_a_store_do_not_break_it(tmp_path: Path) -> None:
    """Six processes at once, each creating the store, the experiment and a run."""
    script = (
        "import sys, mlflow; from pathlib import Path; from pipeline.tracking import store\n"
        "settings, path = store.Tracking(), Path(sys.argv[1])\n"
        "store.open_store(settings, path)\n"
        "experiment = store.experiment_id('shared', settings, path)\n"
        "with mlflow.start_run(experiment_id=experiment): mlflow.log_metric('value', float(sys.argv[2]))\n"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", script, str(tmp_path), str(number)], cwd=ROOT, stderr=subprocess.PIPE, text=True
        )
        for number in range(6)
    ]
    failures = [stderr for process in processes if (stderr := process.communicate()[1]) and process.returncode]
    assert failures == []
    client = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("shared")
    assert experiment is not None
    assert experiment.artifact_location == (tmp_path / "artifacts" / "shared").as_uri()
    values = [run.data.metrics["value"] for run in client.search_runs([experiment.experiment_id])]
    assert sorted(values) == [0, 1, 2, 3, 4, 5]
    assert not list(tmp_path.glob("incomplete-*"))


def test_a_dead_server_is_named_before_anything_is_trained(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="tracking.uri=http://127.0.0.1:9: the MLflow store does not answer"):
        open_store(Tracking(uri="http://127.0.0.1:9"), tmp_path)


def test_a_deleted_experiment_is_named_with_the_way_back(tmp_path: Path) -> None:
    open_store(Tracking(), tmp_path)
    gone = experiment_id("gone", Tracking(), tmp_path)
    mlflow.delete_experiment(gone)
    with pytest.raises(UserError, match=f"was deleted.*restore --experiment-id {gone}"):
        experiment_id("gone", Tracking(), tmp_path)


def test_a_directory_that_cannot_be_written_to_is_named(tmp_path: Path) -> None:
    (tmp_path / "outputs").write_text("a file where the directory should be")
    with pytest.raises(UserError, match="output_dir that can be written to"):
        open_store(Tracking(), tmp_path / "outputs")


def test_reading_does_not_create_a_store(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=f"output_dir={tmp_path}: holds no results: there is no mlflow.db. Run python"
    ):
        open_store(Tracking(), tmp_path, create=False)
    assert not list(tmp_path.iterdir())


def test_links_lead_to_the_server_or_to_the_local_dashboard() -> None:
    assert server_address(Tracking(uri="https://mlflow.example.org/")) == "https://mlflow.example.org"
    assert server_address(Tracking()) == "http://127.0.0.1:5000"
    assert server_address(Tracking(), port=5123) == "http://127.0.0.1:5123"
    assert server_address(Tracking(uri="sqlite:////data/mlflow.db")) == "http://127.0.0.1:5000"
