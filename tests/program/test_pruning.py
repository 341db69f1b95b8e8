"""Trainings that end early, in a sweep of the real program."""

from __future__ import annotations

import re
from pathlib import Path

import mlflow
import pytest
from mlflow import MlflowClient

from tests.program.forked import run_forked


@pytest.mark.slow
def test_a_run_behind_five_others_ends_early_and_counts_as_done(tmp_path: Path) -> None:
    rates = "0.003,0.004,0.005,0.006,0.007,0.000001"  # The last learns next to nothing.
    arguments = ["--multirun", f"training.learning_rate={rates}", "training.prune=true", "training.epochs=3"]
    first, again = (
        run_forked("pipeline.train", *arguments, "size_probe.ways=[]", "size_probe.sizes=[8]", cwd=tmp_path)
        for _ in range(2)
    )
    assert (first.returncode, again.returncode) == (0, 0), first.stderr + again.stderr
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path / 'outputs' / 'mlflow.db'}")
    client = MlflowClient()
    runs = client.search_runs(["1"], "tags.head != ''", order_by=["attributes.start_time ASC"])
    assert [run.info.status for run in runs] == ["FINISHED"] * 6
    epochs = [len(client.get_metric_history(run.info.run_id, "val/accuracy")) for run in runs]
    assert epochs == [3, 3, 3, 3, 3, 1]
    assert ["pruned" in run.data.tags for run in runs] == [False] * 5 + [True]
    (told,) = re.findall(r"  ended (after epoch 1: .*, the median of the 5 runs before it at that epoch)", first.stdout)
    assert told == runs[5].data.tags["pruned"]
    assert runs[5].data.metrics["test/accuracy"] < 0.5
    assert re.findall(r"done before, as run (\w+)", again.stdout) == [run.info.run_id for run in runs]
