"""Nothing is done twice and nothing is lost: finished runs are skipped, interrupted ones go on in their MLflow run."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
from pathlib import Path

import mlflow
import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from pipeline.tracking.queries import sweeps
from tests.conftest import read_until, standing_still
from tests.program.forked import Forked, run_forked

HEADS = ("flatten_dense", "average_pool", "global_average_pool")

EPOCHS = 16
"""So many that a training is not over before it is interrupted."""
OF_TWO_SIZES = ("size_probe.ways=[]", "size_probe.sizes=[8,12]")
EXACT = ("train/accuracy", "train/loss", "val/accuracy", "val/loss", "test/accuracy", "test/loss", "train/kept_epoch")


def _runs(directory: Path) -> list[Run]:
    mlflow.set_tracking_uri(f"sqlite:///{directory / 'outputs' / 'mlflow.db'}")
    return MlflowClient().search_runs(["1"], "tags.head != ''", order_by=["attributes.start_time ASC"])


def _points(run: Run) -> dict[str, list[tuple[int, str]]]:
    """All points of the metrics that deterministic runs share, by name, those of the size curves too."""
    client = MlflowClient()
    names = [name for name in run.data.metrics if name in EXACT or name.startswith("size/")]
    return {
        name: sorted((point.step, repr(point.value)) for point in client.get_metric_history(run.info.run_id, name))
        for name in names
    }


@pytest.mark.slow
def test_a_finished_study_is_not_trained_again_unless_asked_for(tiny_study: Path, tmp_path: Path) -> None:
    directory = shutil.copytree(tiny_study, tmp_path / "study")  # Other tests know it as a study of one call.
    before = {run.info.run_id: _points(run) for run in _runs(directory)}
    again = ["study=heads", "seed=0", "training.epochs=2"]
    result = run_forked("pipeline.train", *again, cwd=directory)
    assert result.returncode == 0, result.stderr
    skipped = re.findall(r"done before, as run (\w+); rerun=true trains it again", result.stdout)
    assert sorted(skipped) == sorted(before)
    assert "epoch 1/2" not in result.stdout
    # The comparison is there all the same, in the table of arms and in that of scores beside accuracy.
    assert result.stdout.count("│ flatten_dense") == 2
    assert {run.info.run_id: _points(run) for run in _runs(directory)} == before
    # They belong to both calls.
    assert len({frozenset(sweeps(run)) for run in _runs(directory)}) == 1
    assert len(sweeps(_runs(directory)[0])) == 2
    assert list((directory / "outputs" / "unfinished").iterdir()) == []


@pytest.mark.slow
def test_an_interrupted_run_goes_on_in_its_own_mlflow_run(tmp_path: Path) -> None:
    arguments = [
        f"training.epochs={EPOCHS}",
        "training.deterministic=true",
        "training.checkpoint_seconds=0",
        *OF_TWO_SIZES,
    ]
    undisturbed = tmp_path / "undisturbed"
    undisturbed.mkdir()
    assert run_forked("pipeline.train", *arguments, cwd=undisturbed).returncode == 0
    (expected,) = _runs(undisturbed)
    points = _points(expected)

    for number, status, code in (
        (signal.SIGTERM, "KILLED", 143),  # Ctrl-C does the same.
        (signal.SIGKILL, "RUNNING", -9),
    ):
        directory = tmp_path / number.name
        directory.mkdir()
        process = Forked("pipeline.train", *arguments, cwd=directory, stderr=subprocess.STDOUT)
        read_until(process, f"epoch 2/{EPOCHS}")
        process.send_signal(number)
        process.communicate()
        assert process.returncode == code
        (interrupted,) = _runs(directory)
        assert interrupted.info.status == status
        if number is not signal.SIGKILL:
            assert interrupted.data.tags["failure"] == "SIGTERM"
        MlflowClient().set_tag(interrupted.info.run_id, "pruned", "after epoch 1: …")  # And then it failed.
        result = run_forked("pipeline.train", *arguments, cwd=directory)
        assert result.returncode == 0, result.stderr
        (done,) = re.findall(rf"going on after epoch (\d+)/{EPOCHS} of an interrupted run", result.stdout)
        assert 1 <= int(done) < EPOCHS  # It did not train on to the end first.
        (run,) = _runs(directory)
        assert (run.info.run_id, run.info.status) == (interrupted.info.run_id, "FINISHED")
        assert not {"failure", "pruned"} & set(run.data.tags)
        assert _points(run) == points


@pytest.mark.slow
def test_a_rerun_that_is_interrupted_goes_on_in_its_own_run_and_the_next_one_begins_anew(tmp_path: Path) -> None:
    arguments = [
        *(f"training.epochs={EPOCHS}", "training.deterministic=true", "training.checkpoint_seconds=0"),
        *OF_TWO_SIZES,
    ]
    assert run_forked("pipeline.train", *arguments, cwd=tmp_path).returncode == 0
    process = Forked("pipeline.train", *arguments, "rerun=true", cwd=tmp_path, stderr=subprocess.STDOUT)
    read_until(process, f"epoch 2/{EPOCHS}")
    process.kill()
    process.communicate()
    first, killed = _runs(tmp_path)
    again, once_more = [run_forked("pipeline.train", *arguments, "rerun=true", cwd=tmp_path) for _ in range(2)]
    assert (again.returncode, once_more.returncode) == (0, 0), again.stderr + once_more.stderr
    assert f"/{EPOCHS} of an interrupted run" in again.stdout
    assert "of an interrupted run" not in once_more.stdout
    runs = _runs(tmp_path)
    assert [run.info.run_id for run in runs[:2]] == [first.info.run_id, killed.info.run_id]
    assert [run.info.status for run in runs] == ["FINISHED"] * 3
    assert [_points(run) for run in runs] == [_points(first)] * 3


@pytest.mark.slow
def test_two_processes_share_one_run(tmp_path: Path) -> None:
    arguments = [f"training.epochs={EPOCHS}", *OF_TWO_SIZES]
    first = Forked("pipeline.train", *arguments, cwd=tmp_path, stderr=subprocess.STDOUT)
    read_until(first, f"epoch 1/{EPOCHS}")
    with standing_still(first, tmp_path / "outputs" / "mlflow.db"):
        second = Forked("pipeline.train", *arguments, cwd=tmp_path, stderr=subprocess.STDOUT)
        read_until(second, "waiting for it to end")
    outputs = [process.communicate()[0] for process in (first, second)]
    assert [process.returncode for process in (first, second)] == [0, 0], outputs
    (run,) = _runs(tmp_path)
    assert run.info.status == "FINISHED"
    assert ["done before, as run" in output for output in outputs] == [False, True]


@pytest.mark.slow
def test_two_processes_share_a_study_and_both_compare_all_of_it(tmp_path: Path) -> None:
    arguments = ["study=heads", "seed=0", "training.epochs=1", *OF_TWO_SIZES]
    both = [Forked("pipeline.train", *arguments, cwd=tmp_path, stderr=subprocess.STDOUT) for _ in range(2)]
    outputs = [process.communicate()[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs
    runs = _runs(tmp_path)
    assert len(runs) == 3
    assert {len(sweeps(run)) for run in runs} == {2}
    for output in outputs:
        assert [output.count(f"│ {head} ") > 0 for head in HEADS] == [True] * 3


@pytest.mark.slow
def test_another_study_has_its_own_runs(tmp_path: Path) -> None:
    arguments = ["training.epochs=1", *OF_TWO_SIZES]
    assert run_forked("pipeline.train", *arguments, cwd=tmp_path).returncode == 0
    assert run_forked("pipeline.train", *arguments, "study=heads", "hydra.mode=RUN", cwd=tmp_path).returncode == 0
    result = run_forked("pipeline.train", *arguments, "rerun=true", cwd=tmp_path)
    assert "done before" not in result.stdout
    runs = _runs(tmp_path)
    assert [run.data.tags.get("study") for run in runs] == [None, "heads", None]
    assert len({run.data.tags["run_key"] for run in runs}) == 1
