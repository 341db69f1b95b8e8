"""MLflow servers: the one that a study's last lines start, and one that a run is recorded on."""

from __future__ import annotations

import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import mlflow
import numpy as np
import pytest
from mlflow import MlflowClient

from tests.conftest import run_program

pytestmark = pytest.mark.slow


@contextmanager
def _server(*arguments: str, cwd: Path, **settings: str) -> Iterator[str]:
    """URI of a running `mlflow server ARGUMENTS`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [str(Path(sys.executable).with_name("mlflow")), "server", *arguments, "--port", str(port)],
        cwd=cwd,
        env={**os.environ, **settings},
        start_new_session=True,
    )
    uri = f"http://127.0.0.1:{port}"
    try:
        _wait_until_it_answers(f"{uri}/health", seconds=120)
        yield uri
    finally:
        os.killpg(process.pid, signal.SIGINT)
        process.wait(timeout=60)


def _wait_until_it_answers(address: str, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while True:
        try:
            with urllib.request.urlopen(address, timeout=10):
                return
        except (urllib.error.URLError, ConnectionError):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)


def test_the_printed_command_serves_the_study(tiny_study: Path) -> None:
    printed = re.search(r"(MLFLOW_\w+)=(\w+) mlflow server (.*)", (tiny_study / "stdout.txt").read_text())
    assert printed
    key, value, arguments = printed.groups()
    with _server(*shlex.split(arguments), cwd=tiny_study, **{key: value}) as uri:
        runs = MlflowClient(uri).search_runs(["1"])
        assert sorted(run.info.run_name for run in runs) == [
            "average_pool seed 0",
            "flatten_dense seed 0",
            "global_average_pool seed 0",
        ]


def test_a_run_is_recorded_on_a_server(tmp_path: Path) -> None:
    arguments = shlex.split(
        "--workers 1 --host 127.0.0.1 --backend-store-uri sqlite:///server.db --artifacts-destination artifacts"
    )
    (tmp_path / "server").mkdir()
    (tmp_path / "client").mkdir()
    with _server(*arguments, cwd=tmp_path / "server", MLFLOW_SERVER_ENABLE_JOB_EXECUTION="false") as uri:
        result = run_program(
            "pipeline.train", "tracking=server", f"tracking.uri={uri}", "training.epochs=1", cwd=tmp_path / "client"
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
    assert not list((tmp_path / "client").glob("outputs/mlflow.db"))
