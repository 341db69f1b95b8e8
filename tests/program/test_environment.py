"""What other programs have set in the environment does not decide how this one runs, or where it records."""

from __future__ import annotations

import json
from pathlib import Path

import mlflow
import pytest
from mlflow import MlflowClient

from tests.conftest import run_program


@pytest.mark.slow
def test_a_run_is_what_it_is_in_any_environment(tmp_path: Path) -> None:
    settings = {"image_data_format": "channels_first", "floatx": "float16", "backend": "torch", "epsilon": 1e-7}
    (tmp_path / "keras").mkdir()
    (tmp_path / "keras" / "keras.json").write_text(json.dumps(settings))
    # Each of them decided something once; together they cost one run.
    environment = {
        "KERAS_HOME": str(tmp_path / "keras"),
        "KERAS_BACKEND": "torch",
        "MLFLOW_RUN_ID": "0123456789abcdef0123456789abcdef",
        "MLFLOW_EXPERIMENT_NAME": "another",
        "MLFLOW_EXPERIMENT_ID": "7",
    }
    arguments = ("pipeline.train", "head=flatten_dense", "training.epochs=1", "size_probe.sizes=[8]")
    result = run_program(*arguments, cwd=tmp_path, **environment)
    assert result.returncode == 0, result.stderr
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path / 'outputs' / 'mlflow.db'}")
    client = MlflowClient()
    assert {experiment.name for experiment in client.search_experiments()} == {"Default", "digits"}
    (run,) = client.search_runs([client.get_experiment_by_name("digits").experiment_id], "tags.head != ''")
    # 2·2·64 cells of an 8×8 px image at stride 4, to 10 classes.
    assert run.data.metrics["params/head"] == 2 * 2 * 64 * 10 + 10
    assert run.data.metrics["test/accuracy"] > 0.2
