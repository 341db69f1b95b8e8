"""A study as an array of jobs on a real Slurm controller with two nodes on this machine."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import mlflow
import pytest
from mlflow import MlflowClient

from tests.conftest import run_program, start_program
from tests.program.cluster import slurm

pytest.importorskip("hydra_plugins.hydra_submitit_launcher", reason="needs pip install '.[slurm]'")
pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(not slurm.installed(), reason="needs root and Debian's slurm-wlm"),
]
STUDY = [
    *("--multirun", "study=heads", "seed=0,1", "head=flatten_dense,global_average_pool", "training.epochs=2"),
    *("training.deterministic=true", "size_probe.ways=[]", "launch.threads=1"),
]


def _accuracies(directory: Path) -> dict[str, tuple[str, float]]:
    mlflow.set_tracking_uri(f"sqlite:///{directory / 'outputs' / 'mlflow.db'}")
    runs = MlflowClient().search_runs(["1"], "tags.head != ''")
    found = {run.info.run_name: (run.info.status, run.data.metrics["test/accuracy"]) for run in runs}
    assert len(found) == len(runs)
    return found


def test_an_array_of_jobs_gives_what_the_local_study_gives(tmp_path: Path) -> None:
    for name in ("local", "slurm"):
        (tmp_path / name).mkdir()
    with slurm.cluster() as environment:
        began = time.monotonic()
        process = start_program(
            "pipeline.train",
            *STUDY,
            "launch=slurm",
            cwd=tmp_path / "slurm",
            environment=environment,
            stderr=subprocess.STDOUT,
        )
        jobs: set[str] = set()
        while process.poll() is None:
            queue = ["squeue", "--noheader", "--states", "RUNNING", "--format", "%A %K %N"]
            jobs |= set(subprocess.run(queue, env=environment, capture_output=True, text=True).stdout.splitlines())
            time.sleep(1)
        assert process.stdout is not None
        output, seconds = process.stdout.read(), time.monotonic() - began
    assert process.returncode == 0, output
    assert {job.split()[1] for job in jobs} == {"0", "1", "2", "3"}  # Of one array,
    assert {job.split()[2] for job in jobs} == {"node1", "node2"}  # on both nodes.
    assert "│ flatten_dense" in output  # The comparison.
    result = run_program("pipeline.train", *STUDY, cwd=tmp_path / "local")
    assert result.returncode == 0, result.stderr
    assert _accuracies(tmp_path / "slurm") == _accuracies(tmp_path / "local")
    assert {status for status, _ in _accuracies(tmp_path / "slurm").values()} == {"FINISHED"}
    print(f"array of four runs on two nodes: {seconds:.0f} s")
