"""The store, and what goes wrong with it."""

from __future__ import annotations

import multiprocessing
import threading
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.synchronize import Barrier
from pathlib import Path

import mlflow
import numpy as np
import pytest
from mlflow import MlflowClient
from mlflow.store.db.db_types import DATABASE_ENGINES

from pipeline.common.errors import ConfigError, UserError
from pipeline.tracking.settings import DATABASES, Tracking
from pipeline.tracking.store import experiment_for, experiment_id, open_store, server_address, store_uri, tried_twice
from tests.conftest import HANG_SECONDS
from tests.program.servers import free_port

PROCESSES = 8


def _tracking(path: Path, is_named: bool) -> Tracking:
    return Tracking(uri=f"sqlite:///{path}.db" if is_named else None)


def _use(start: Barrier, directory: Path, is_named: bool, rounds: int, number: int) -> None:
    """In each round, all processes at once are the first to use a store: each records a metric and a dataset in it."""
    dataset = mlflow.data.from_numpy(np.zeros(3), name="shared")
    for round_ in range(rounds):
        path = directory / str(round_)
        start.wait(timeout=HANG_SECONDS)
        open_store(_tracking(path, is_named), path)
        experiment = experiment_for("shared", _tracking(path, is_named), path)
        with mlflow.start_run(experiment_id=experiment):
            mlflow.log_metric("value", number)
            start.wait(timeout=HANG_SECONDS)
            tried_twice(partial(mlflow.log_input, dataset, "training"))


@pytest.mark.slow
@pytest.mark.parametrize(("is_named", "rounds"), [(False, 3), (True, 2)], ids=["local", "a database"])
def test_first_users_of_a_store_do_not_break_it(is_named: bool, rounds: int, times: int, tmp_path: Path) -> None:
    """Eight processes at the same instant, in fresh stores: eight runs, metrics and inputs in each, and no failure."""
    rounds *= times
    context = multiprocessing.get_context("spawn")
    start = context.Barrier(PROCESSES)
    users = [
        context.Process(target=_use, args=(start, tmp_path, is_named, rounds, number)) for number in range(PROCESSES)
    ]
    for user in users:
        user.start()
    for user in users:
        user.join()
    assert [user.exitcode for user in users] == [0] * PROCESSES
    for round_ in range(rounds):
        path = tmp_path / str(round_)
        client = MlflowClient(store_uri(_tracking(path, is_named), path))
        (experiment,) = (one for one in client.search_experiments() if one.name == "shared")
        runs = client.search_runs([experiment.experiment_id])
        assert sorted(run.data.metrics["value"] for run in runs) == list(range(PROCESSES))
        assert [[one.dataset.name for one in run.inputs.dataset_inputs] for run in runs] == [["shared"]] * PROCESSES
        assert not list((tmp_path / str(round_)).glob("incomplete-*"))


@pytest.mark.long
def test_a_dead_server_is_named_before_anything_is_trained(tmp_path: Path) -> None:
    uri = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(UserError, match=f"tracking.uri={uri}: the MLflow store does not answer"):
        open_store(Tracking(uri=uri), tmp_path)


@pytest.mark.long
@pytest.mark.parametrize("code", [401, 403])
def test_a_server_that_asks_for_a_password_is_named_with_how_to_give_it(code: int, tmp_path: Path) -> None:
    class Closed(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.send_error(code)

    with ThreadingHTTPServer(("127.0.0.1", 0), Closed) as server:
        threading.Thread(target=server.serve_forever).start()
        with pytest.raises(UserError, match="does not let you in. Set the environment variables MLFLOW_TRACKING_USERN"):
            open_store(Tracking(uri=f"http://127.0.0.1:{server.server_port}"), tmp_path)
        server.shutdown()


@pytest.mark.long
def test_the_files_of_runs_in_a_named_database_are_in_output_dir(tmp_path: Path) -> None:
    """MLflow would put them into the working directory."""
    outputs, named = tmp_path / "outputs", Tracking(uri=f"sqlite:///{tmp_path / 'elsewhere.db'}")
    open_store(named, outputs)
    experiment = MlflowClient().get_experiment(experiment_for("digits", named, outputs))
    assert experiment.artifact_location == (outputs / "artifacts" / "digits").as_uri()
    (tmp_path / "same").symlink_to(outputs)
    assert experiment_for("digits", named, tmp_path / "same") == experiment.experiment_id
    # Its files would come here, and its locks not be seen from there.
    with pytest.raises(UserError, match=f"output_dir={tmp_path / 'other'}: .* keeps its files in {outputs.as_uri()}"):
        experiment_for("digits", named, tmp_path / "other")


@pytest.mark.parametrize(
    ("uri", "is_database"),
    [
        *((f"{name}://host/mlflow", True) for name in DATABASES),
        *(("postgresql+psycopg:///mlflow", True), ("sqlite:////data/mlflow.db", True)),
        *(("http://127.0.0.1:5000", False), ("databricks", False), ("mlruns", False), (None, False)),
    ],
)
def test_a_database_is_told_by_its_address(uri: str | None, is_database: bool) -> None:
    assert Tracking(uri=uri).is_database is is_database
    assert set(DATABASES) == set(DATABASE_ENGINES)


@pytest.mark.parametrize(
    ("scheme", "module", "package"),
    [
        ("mssql+pymssql", "pymssql", "pymssql"),
        ("postgresql+psycopg", "psycopg", "'psycopg\\[binary\\]'"),
        ("mysql", "MySQLdb", "mysqlclient"),
    ],
)
def test_a_driver_that_is_not_installed_is_named_with_how_to_install_it(
    scheme: str, module: str, package: str, tmp_path: Path
) -> None:
    with pytest.raises(
        UserError, match=f"No module named '{module}'. Install it, for example with pip install {package}, "
    ):
        open_store(Tracking(uri=f"{scheme}://host/mlflow"), tmp_path)


def test_a_database_that_cannot_be_reached_is_told_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """MLflow would try again and again, for a hundred seconds."""
    monkeypatch.setattr("mlflow.MlflowClient", None)
    with pytest.raises(UserError, match=r"the MLflow store does not answer: .*unable to open database file"):
        open_store(Tracking(uri=f"sqlite:///{tmp_path / 'nowhere' / 'mlflow.db'}"), tmp_path)


@pytest.mark.long
def test_a_deleted_experiment_is_named_with_the_way_back(tmp_path: Path) -> None:
    open_store(Tracking(), tmp_path)
    gone = experiment_id(MlflowClient(), "gone", (tmp_path / "artifacts").as_uri())
    mlflow.delete_experiment(gone)
    with pytest.raises(UserError, match=f"was deleted.*restore --experiment-id {gone}"):
        experiment_id(MlflowClient(), "gone", (tmp_path / "artifacts").as_uri())


def test_a_directory_that_cannot_be_written_to_is_named(tmp_path: Path) -> None:
    (tmp_path / "outputs").write_text("a file where the directory should be")
    with pytest.raises(UserError, match="output_dir that can be written to"):
        open_store(Tracking(), tmp_path / "outputs")


@pytest.mark.parametrize("name", ["a%20b", "a?b"])
def test_a_directory_whose_store_would_be_elsewhere_is_refused(name: str, tmp_path: Path) -> None:
    """The database of sqlite:///a%20b/mlflow.db is in `a b`, and that of sqlite:///a?b/mlflow.db is the file `a`."""
    with pytest.raises(ConfigError, match=r"must have no % and no \? in it.*Use another directory\.$"):
        open_store(Tracking(), tmp_path / name)
    assert not list(tmp_path.iterdir())


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
