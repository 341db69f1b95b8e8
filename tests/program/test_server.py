"""MLflow servers: the dashboard, one that a study is recorded on, and those that serve a trained model."""

from __future__ import annotations

import json
import signal
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import mlflow
import numpy as np
import psutil
import pytest
from mlflow import MlflowClient

from tests.conftest import HANG_SECONDS, run_program, start_program
from tests.program.doors import QUICK
from tests.program.forked import run_forked
from tests.program.servers import PATIENCE, PATIENT, TRACKING_SERVER, free_port, running

pytestmark = pytest.mark.slow


@contextmanager
def _dashboard(study: Path, port: int, *settings: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`python -m pipeline.dashboard` once it answers, and what it has printed by then."""
    process = start_program(
        "pipeline.dashboard", f"port={port}", *settings, cwd=study, stderr=subprocess.PIPE, start_new_session=True
    )
    try:
        assert process.stdout is not None
        printed = ""
        while "Ctrl-C stops it" not in printed:
            line = process.stdout.readline()
            assert line, process.stderr and process.stderr.read()
            printed += line
        yield process, printed
    finally:
        process.kill()


def test_the_dashboard_serves_the_study_and_stops_on_ctrl_c(tiny_study: Path) -> None:
    port = free_port()
    with _dashboard(tiny_study, port) as (process, printed):
        assert f"http://127.0.0.1:{port}/#/experiments/1/runs?workflowType=machine_learning" in printed
        runs = MlflowClient(f"http://127.0.0.1:{port}").search_runs(["1"], "tags.study = 'heads'")
        assert sorted(run.info.run_name for run in runs) == [
            "average_pool seed 0",
            "flatten_dense seed 0",
            "global_average_pool seed 0",
        ]
        servers = psutil.Process(process.pid).children(recursive=True)
        assert 0 < len(servers) <= 3
        listening = {connection.laddr.ip for server in servers for connection in server.net_connections("tcp")}
        assert listening == {"127.0.0.1"}

        second = run_forked("pipeline.dashboard", f"port={port}", cwd=tiny_study)
        assert second.returncode == 2
        assert f"port={port}: cannot be used: Address already in use. Use another" in second.stderr

        process.send_signal(signal.SIGINT)
        rest, _ = process.communicate(timeout=HANG_SECONDS)
        assert (process.returncode, rest.strip()) == (0, "Stopped.")
        assert psutil.wait_procs(servers, timeout=HANG_SECONDS)[1] == []


def test_a_named_database_is_recorded_in_and_served(tmp_path: Path) -> None:
    named = f"tracking.uri=sqlite:///{tmp_path / 'elsewhere.db'}"
    arguments = ["study=heads", "head=global_average_pool", "seed=0", *QUICK, named]
    trained = run_forked("pipeline.train", *arguments, cwd=tmp_path)
    assert trained.returncode == 0, trained.stderr
    assert f"python -m pipeline.dashboard {named} output_dir={tmp_path / 'outputs'}, then open" in trained.stdout
    assert sorted(path.name for path in tmp_path.iterdir()) == ["elsewhere.db", "outputs"]
    assert not (tmp_path / "outputs" / "mlflow.db").exists()
    port = free_port()
    with _dashboard(tmp_path, port, named):
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/studies") as page:
            assert "What should replace the Dense layers" in page.read().decode()
        (run,) = MlflowClient(f"http://127.0.0.1:{port}").search_runs(["1"], "tags.study = 'heads'")
        assert run.info.run_name == "global_average_pool seed 0"
    server = run_forked("pipeline.dashboard", "tracking.uri=http://127.0.0.1:5000", cwd=tmp_path)
    assert server.returncode == 2
    assert "http://127.0.0.1:5000: has a dashboard of its own. Open this address in a browser." in server.stderr


def test_the_dashboard_needs_results(tmp_path: Path) -> None:
    result = run_forked("pipeline.dashboard", cwd=tmp_path)
    assert result.returncode == 2
    assert "outputs: holds no results: there is no mlflow.db. Run python -m pipeline.train study=heads" in result.stderr
    assert not list(tmp_path.iterdir())


def test_a_run_is_recorded_on_a_server(tmp_path: Path) -> None:
    (tmp_path / "server").mkdir()
    (tmp_path / "client").mkdir()
    with running(*TRACKING_SERVER, cwd=tmp_path / "server") as uri:
        result = run_forked(
            *(*PATIENT, "pipeline.train", "tracking=server", f"tracking.uri={uri}", *QUICK),
            cwd=tmp_path / "client",
            environment=PATIENCE,
        )
        assert result.returncode == 0, result.stderr
        client = MlflowClient(uri)
        experiment = client.get_experiment_by_name("digits")
        assert experiment is not None
        (run,) = client.search_runs([experiment.experiment_id])
        assert run.info.status == "FINISHED"
        assert run.data.metrics["params/head"] == 64 * 10 + 10
        names = {artifact.path for artifact in client.list_artifacts(run.info.run_id)}
        assert names >= {"config.yaml", "predictions.parquet", "size_behavior.json", "size_behavior.png"}
        mlflow.set_tracking_uri(uri)
        model = mlflow.pyfunc.load_model(f"models:/{run.outputs.model_outputs[0].model_id}")
        assert np.asarray(model.predict(np.zeros((1, 11, 11, 1), np.uint8))).shape == (1, 10)


def test_a_model_registered_after_its_run_comes_to_the_server_and_leaves_no_download_behind(tmp_path: Path) -> None:
    for name in ("server", "client", "temporary"):
        (tmp_path / name).mkdir()
    run = ("pipeline.train", "head=global_average_pool", *QUICK)
    with running(*TRACKING_SERVER, cwd=tmp_path / "server") as uri:
        server = ("tracking=server", f"tracking.uri={uri}")
        for command in (
            (*run, *server),
            (*run, *server, "tracking.register_as=at_once"),  # By the server's own client.
            (*run, "tracking.register_as=by_sync"),
            ("pipeline.sync", f"tracking.uri={uri}"),
            ("pipeline.sync", f"tracking.uri={uri}"),
        ):
            ended = run_forked(*PATIENT, *command, cwd=tmp_path / "client", environment=PATIENCE)
            assert ended.returncode == 0, ended.stderr
        client = MlflowClient(uri)
        (run_on_server,) = client.search_runs(["1"])
        versions = client.search_model_versions()
        assert sorted((version.name, version.run_id) for version in versions) == [
            ("at_once", run_on_server.info.run_id),
            ("by_sync", run_on_server.info.run_id),
        ]
        converted = run_program(
            *(*PATIENT, "pipeline.convert", "model=models:/by_sync/1", "way=resize_input", *server),
            cwd=tmp_path / "client",
            **PATIENCE,
            TMPDIR=str(tmp_path / "temporary"),
        )
    assert converted.returncode == 0, converted.stderr
    assert (tmp_path / "client" / "by_sync-1-resize_input.keras").is_file()
    assert list((tmp_path / "temporary").iterdir()) == []


def test_a_study_on_a_server_prints_that_servers_link_and_no_password(tmp_path: Path) -> None:
    """A shared server with basic auth: the credentials come from the environment and show nowhere."""
    (tmp_path / "server").mkdir()
    (tmp_path / "client").mkdir()
    (tmp_path / "server" / "auth.ini").write_text(
        "[mlflow]\ndefault_permission = READ\ndatabase_uri = sqlite:///auth.db\n"
        "admin_username = engineer\nadmin_password = a-long-secret-42\n"
        "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
    )
    with running(
        *TRACKING_SERVER,
        "--app-name",
        "basic-auth",
        cwd=tmp_path / "server",
        MLFLOW_AUTH_CONFIG_PATH=str(tmp_path / "server" / "auth.ini"),
        MLFLOW_FLASK_SERVER_SECRET_KEY="for the test",
    ) as uri:
        study = [
            *PATIENT,
            "pipeline.train",
            "study=heads",
            "seed=0",
            "head=global_average_pool,average_pool",
            *QUICK,
        ]
        server = ["tracking=server", f"tracking.uri={uri}"]
        stranger = run_forked(*study, *server, cwd=tmp_path / "client", environment=PATIENCE)
        assert stranger.returncode == 2
        assert "MLFLOW_TRACKING_USERNAME" in stranger.stderr
        secret = {**PATIENCE, "MLFLOW_TRACKING_USERNAME": "engineer", "MLFLOW_TRACKING_PASSWORD": "a-long-secret-42"}
        result = run_forked(*study, *server, cwd=tmp_path / "client", environment=secret)
        assert result.returncode == 0, result.stderr
        assert f"{uri}/#/experiments/1/runs?workflowType=machine_learning" in result.stdout
        compared = run_forked(
            *PATIENT, "pipeline.compare", "study=heads", *server, cwd=tmp_path / "client", environment=secret
        )
        assert compared.returncode == 0, compared.stderr
        assert f"{uri}/#/experiments/1/runs?workflowType=machine_learning" in compared.stdout
        printed = stranger.stderr + result.stdout + result.stderr + compared.stdout + compared.stderr
        assert "a-long-secret-42" not in printed
    for path in (tmp_path / "client").rglob("*"):
        assert path.is_dir() or b"a-long-secret-42" not in path.read_bytes(), path
    stored = [path for path in (tmp_path / "server").rglob("*") if path.is_file() and path.name != "auth.ini"]
    assert all(b"a-long-secret-42" not in path.read_bytes() for path in stored)


def _ask(uri: str, size: int) -> tuple[int, str]:
    """Status and body of a request with one black image of `size` px a side."""
    image = np.zeros((1, size, size, 1), int).tolist()
    request = urllib.request.Request(
        f"{uri}/invocations", json.dumps({"inputs": image}).encode(), {"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=HANG_SECONDS) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_registered_models_are_served_at_the_sizes_that_they_take(tmp_path: Path) -> None:
    result = run_forked(
        *("pipeline.train", "--multirun", "head=global_average_pool,flatten_dense", *QUICK),
        "tracking.register_as=digits_${head.name}",
        cwd=tmp_path,
    )
    assert result.returncode == 0, result.stderr
    store = f"sqlite:///{tmp_path / 'outputs' / 'mlflow.db'}"
    (version,) = MlflowClient(store).search_model_versions("name = 'digits_flatten_dense'")
    assert (version.tags["head"], version.tags["dataset"]) == ("flatten_dense", "digits")
    assert 0 < float(version.tags["test_accuracy"]) <= 1

    serve = ("models", "serve", "--env-manager", "local", "--host", "127.0.0.1", "--model-uri")
    with running(*serve, "models:/digits_global_average_pool/1", cwd=tmp_path, MLFLOW_TRACKING_URI=store) as uri:
        for size in (8, 20):
            status, body = _ask(uri, size)
            assert status == 200, body
            assert np.shape(json.loads(body)["predictions"]) == (1, 10)
    with running(*serve, "models:/digits_flatten_dense/1", cwd=tmp_path, MLFLOW_TRACKING_URI=store) as uri:
        assert _ask(uri, 8)[0] == 200
        status, body = _ask(uri, 20)
        assert status == 400
        assert "(1, 20, 20, 1)" in body
        assert "(-1, 8, 8, 1)" in body
