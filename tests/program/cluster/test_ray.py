"""A study on two Ray nodes on this machine, of which a worker or a whole node is killed while it trains."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from pathlib import Path

import mlflow
import psutil
import pytest
from mlflow import MlflowClient

from pipeline.tracking.queries import sweeps
from tests.conftest import HANG_SECONDS, start_program

ray = pytest.importorskip("ray", reason="needs pip install '.[ray]'")
pytestmark = pytest.mark.cluster
EPOCHS = 200
"""Ray hands lines on seconds later; the worker that wrote them has to be there still."""


@pytest.mark.parametrize("lost", ["worker", "node"])
def test_a_study_on_two_nodes_survives_a_killed(lost: str, tmp_path: Path) -> None:
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        second = cluster.add_node(num_cpus=1)
        (raylet,) = (started.process.pid for started in second.all_processes["raylet"])
        process = start_program(
            "pipeline.train",
            *(
                "--multirun",
                "study=heads",
                "seed=0,1",
                "head=flatten_dense,global_average_pool",
                f"training.epochs={EPOCHS}",
            ),
            *("training.checkpoint_seconds=0", "training.deterministic=true", "size_probe.ways=[]"),
            *("launch=ray", f"hydra.launcher.ray.init.address={cluster.address}"),
            cwd=tmp_path,
            stderr=subprocess.STDOUT,
        )
        assert process.stdout is not None
        output, killed, node_of = "", 0, {}
        for line in process.stdout:
            output += line
            if not (found := re.search(rf"pid=(\d+).* epoch (\d+)/{EPOCHS}  accuracy", line)):
                continue
            worker, epoch = int(found[1]), int(found[2])
            if worker not in node_of:
                node_of[worker] = psutil.Process(worker).ppid()  # Each node's raylet has its own workers.
            is_in_time = 4 <= epoch <= EPOCHS * 3 / 4 and len(set(node_of.values())) == 2
            if killed or not is_in_time or (lost == "node" and node_of[worker] != raylet):
                continue
            os.kill(worker, signal.SIGKILL)
            if lost == "node":  # With its workers, as a machine that loses its power.
                cluster.remove_node(second, allow_graceful=False)
            killed = worker
        process.wait(timeout=HANG_SECONDS)
    finally:
        cluster.shutdown()
    assert process.returncode == 0, output
    assert killed, output
    assert "going on after epoch" in output
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path / 'outputs' / 'mlflow.db'}")
    runs = MlflowClient().search_runs(["1"], "tags.head != ''")
    assert sorted(run.info.run_name for run in runs) == [
        *("flatten_dense seed 0", "flatten_dense seed 1", "global_average_pool seed 0", "global_average_pool seed 1"),
    ]
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert len({name for run in runs for name in sweeps(run)}) == 1
    assert "│ flatten_dense" in output  # The comparison.
    seconds = time.time() - min(run.info.start_time for run in runs) / 1000
    print(f"four runs on {len(set(node_of.values()))} nodes, a {lost} killed and its run retried: {seconds:.0f} s")
