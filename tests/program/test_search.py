"""A search for settings by Optuna that is stopped, and goes on with the same command."""

from __future__ import annotations

import re
from pathlib import Path

import mlflow
import pytest
from mlflow import MlflowClient

from tests.program.forked import run_forked

pytestmark = pytest.mark.slow


SEARCH = (
    *("--multirun", "hydra/sweeper=search", "training.epochs=1", "launch.threads=1"),
    *("size_probe.ways=[]", "size_probe.sizes=[8]"),
)


def test_a_search_goes_on_where_it_was(tmp_path: Path) -> None:
    first, longer = (
        run_forked("pipeline.train", *SEARCH, f"hydra.sweeper.n_trials={trials}", cwd=tmp_path) for trials in (1, 2)
    )
    assert (first.returncode, longer.returncode) == (0, 0), first.stderr + longer.stderr
    assert "done before" not in first.stdout
    done = re.findall(r"done before, as run (\w+)", longer.stdout)
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path / 'outputs' / 'mlflow.db'}")
    runs = MlflowClient().search_runs(["1"], "tags.head != ''", order_by=["attributes.start_time ASC"])
    assert [run.info.status for run in runs] == ["FINISHED"] * 2
    assert done == [run.info.run_id for run in runs[:1]]
    assert {run.data.params["training.prune"] for run in runs} == {"True"}
    assert len({run.data.params["training.learning_rate"] for run in runs}) == 2
    best = max(
        MlflowClient().get_metric_history(run.info.run_id, "val/accuracy")[-1].value for run in runs
    )  # Of one epoch.
    assert f"Best of 2: validation accuracy {best:.4f} with training.learning_rate=" in longer.stdout


def test_a_trial_that_fails_ends_no_search(tmp_path: Path) -> None:
    """Of two learning rates the program refuses one. Then none of the runs can be."""
    rates = ["training.learning_rate=choice(0.001,-1.0)", "hydra.sweeper.n_trials=4"]
    some = run_forked("pipeline.train", *SEARCH, *rates, cwd=tmp_path)
    assert some.returncode == 1, some.stderr
    (failed,) = re.findall(r"(\d) runs? of this sweep failed:", some.stderr)
    assert "training.learning_rate=-1.0: must be a number above 0" in some.stderr
    assert "Traceback" not in some.stderr
    runs = MlflowClient(f"sqlite:///{tmp_path / 'outputs' / 'mlflow.db'}").search_runs(["1"], "tags.head != ''")
    assert [run.data.params["training.learning_rate"] for run in runs] == ["0.001"] * (4 - int(failed))
    assert 0 < len(runs) < 4

    blind = ["dataset.validation_fraction=0", "training.prune=false", "training.keep_weights=last"]
    none = run_forked("pipeline.train", *SEARCH, *blind, "hydra.sweeper.n_trials=1", cwd=tmp_path)
    assert none.returncode == 2, none.stderr
    assert "Error: No run has a validation accuracy for a search to go by." in none.stderr
    assert "Traceback" not in none.stderr
    none = run_forked("pipeline.train", *SEARCH, "training.batch_size=0", "hydra.sweeper.n_trials=2", cwd=tmp_path)
    assert none.returncode == 2, none.stderr
    assert none.stderr.count("training.batch_size=0: must be at least 1") == 1
    assert "Traceback" not in none.stderr
