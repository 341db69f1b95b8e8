"""One training on several machines, played by two processes on this one."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import mlflow
import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from pipeline.common.digest import digest_of
from pipeline.common.errors import ConfigError
from pipeline.training.multi_worker import check_last_step, connect
from tests.conftest import read_until, typed
from tests.program.cluster.ports import free_ports
from tests.program.forked import Forked

TRAINING = ["training.strategy=multi_worker", "launch.threads=1", "size_probe.ways=[]", "size_probe.sizes=[8]"]


def _run(directory: Path) -> Run:
    mlflow.set_tracking_uri(f"sqlite:///{directory / 'outputs' / 'mlflow.db'}")
    (run,) = MlflowClient().search_runs(["1"])
    return run


def _start(directory: Path, *arguments: str) -> list[Forked]:
    """Two ranks, the first one first."""
    workers = [f"127.0.0.1:{port}" for port in free_ports(2)]
    return [
        Forked(
            "pipeline.train",
            *(*TRAINING, *arguments),
            cwd=directory,
            stderr=subprocess.STDOUT,
            environment={
                "TF_CONFIG": json.dumps({"cluster": {"worker": workers}, "task": {"type": "worker", "index": rank}})
            },
        )
        for rank in range(2)
    ]


def test_without_the_others_addresses_it_says_what_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TF_CONFIG", raising=False)
    with pytest.raises(ConfigError, match="training.strategy=multi_worker: needs the environment variable TF_CONFIG"):
        connect()


def test_what_cannot_be_shared_out_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="shares every batch out"):
        typed(TRAINING[0], "dataset.native_size=true")

    class OfThree:
        num_replicas_in_sync = 3

    monkeypatch.setattr("tensorflow.distribute.get_strategy", OfThree)
    check_last_step(1293, 32)  # 13 in the last step
    check_last_step(1280, 32)
    with pytest.raises(ConfigError, match="training.batch_size=32: leaves 2 of 1282 images"):
        check_last_step(1282, 32)


@pytest.mark.slow
def test_two_ranks_end_with_the_same_weights(tmp_path: Path) -> None:
    ranks = _start(tmp_path, "training.epochs=5")
    outputs = [rank.communicate()[0] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], outputs
    run = _run(tmp_path)
    assert run.info.status == "FINISHED"
    model = mlflow.keras.load_model(f"models:/{run.outputs.model_outputs[0].model_id}")
    digest = digest_of(*(variable.numpy() for variable in model.trainable_variables))
    assert f"rank 1 trained along; digest of the weights {digest}" in outputs[1]
    assert run.data.metrics["test/accuracy"] > 0.8  # They have learned: to guess is .1 of the digits.


@pytest.mark.slow
def test_after_a_killed_rank_the_others_end_and_the_same_command_goes_on(tmp_path: Path) -> None:
    arguments = ["training.epochs=6", "training.checkpoint_seconds=0"]
    first, second = _start(tmp_path, *arguments)
    read_until(first, "epoch 3/6  accuracy")
    second.kill()
    output, _ = first.communicate()
    assert first.returncode == 2
    assert "Error: training.strategy=multi_worker: another rank is gone, and no rank can train alone" in output
    assert "UnavailableError" not in output  # TensorFlow's
    second.communicate()
    interrupted = _run(tmp_path)

    ranks = _start(tmp_path, *arguments)
    outputs = [rank.communicate()[0] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], outputs
    assert all("of an interrupted run" in output for output in outputs)
    assert (_run(tmp_path).info.run_id, _run(tmp_path).info.status) == (interrupted.info.run_id, "FINISHED")
