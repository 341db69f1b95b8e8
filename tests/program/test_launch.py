"""Several runs at once: the same results as one after the other, the same ends, and nothing lost when it is stopped."""

from __future__ import annotations

import multiprocessing
import os
import re
import signal
import subprocess
from pathlib import Path

import mlflow
import psutil
import pytest
from hydra.errors import MissingConfigException
from mlflow import MlflowClient
from mlflow.entities import Run
from omegaconf import OmegaConf

from pipeline.cli.messages import EXTRAS, explain
from pipeline.cli.session import SESSION, SweepInfo
from pipeline.cli.terminal import import_tensorflow
from pipeline.config.launch import Launch, cores
from pipeline.tracking.queries import sweeps
from tests.conftest import HANG_SECONDS, run_program, start_program, typed

STUDY = ["--multirun", "study=heads", "training.deterministic=true", "size_probe.ways=[]", "size_probe.sizes=[8,12]"]
EPOCHS = 60
"""So many that no worker has come to the end when the other one has begun."""
MEASURED = ("train/images_per_second", "cost/ms_per_image")


def _runs(directory: Path) -> dict[str, Run]:
    mlflow.set_tracking_uri(f"sqlite:///{directory / 'outputs' / 'mlflow.db'}")
    found = MlflowClient().search_runs(["1"], "tags.study = 'heads'")
    runs = {run.info.run_name: run for run in found}
    assert len(runs) == len(found)  # None twice.
    return runs


def _points(run: Run) -> dict[str, list[tuple[int, str]]]:
    client = MlflowClient()
    names = [name for name in run.data.metrics if name not in MEASURED]
    return {
        name: [(point.step, repr(point.value)) for point in client.get_metric_history(run.info.run_id, name)]
        for name in names
    }


def test_workers_share_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (typed().launch, typed("launch=parallel").launch) == (Launch(1, None), Launch(cores(), 1))
    monkeypatch.setattr("joblib.cpu_count", lambda: 8)
    for workers, threads in ((1, 8), (3, 2), (8, 1), (20, 1)):
        assert typed("launch=parallel", f"launch.workers={workers}").launch == Launch(workers, threads)
    assert typed("launch=parallel", "launch.workers=2", "launch.threads=3").launch == Launch(2, 3)


@pytest.mark.parametrize("option", EXTRAS)
def test_a_missing_extra_is_named(option: str) -> None:
    error = MissingConfigException("Could not find it", option, ["basic", "joblib"])
    typed, package, extra = EXTRAS[option]
    assert explain(error) == f"{typed} needs the package {package}: pip install '.[{extra}]'"


@pytest.mark.parametrize(
    ("override", "beginning"),
    [
        ("head=average_pool,foo", "head=foo: there is no such option"),
        ("seed=0,x", "seed=x: Value 'x' of type 'str' could not be converted to Integer"),
        pytest.param("launch.workers=-2", "launch.workers=-2: must be at least 1", marks=pytest.mark.slow),
    ],
)
def test_a_mistake_that_a_worker_finds_gets_one_message(override: str, beginning: str, tmp_path: Path) -> None:
    result = run_program("pipeline.train", "--multirun", "launch=parallel", override, cwd=tmp_path)
    assert result.returncode == 2
    assert "Traceback" not in result.stderr
    assert [line for line in result.stderr.splitlines() if line][-1].startswith(f"Error: {beginning}")


def _threads_of_a_worker(first: Launch, second: Launch, tiny: bool) -> list[int]:
    """Threads within an operation and for several of them, after two runs in one process."""
    import tensorflow as tf

    import_tensorflow()
    from pipeline.training.devices import limit_threads

    read = (tf.config.threading.get_intra_op_parallelism_threads, tf.config.threading.get_inter_op_parallelism_threads)
    limit_threads(first.threads, tiny)
    tf.constant(1) + 1  # TensorFlow starts.
    limit_threads(second.threads, tiny)
    return [get() for get in read]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("first", "second", "tiny", "threads"),
    [
        (Launch(threads=3), Launch(threads=3), False, [3, 3]),
        (Launch(threads=3), Launch(threads=2), True, [3, 3]),  # With a warning.
        (Launch(), Launch(), True, [1, 0]),  # 0: as many as TensorFlow takes.
        (Launch(), Launch(), False, [0, 0]),
    ],
)
def test_tensorflow_is_held_to_the_threads_also_in_a_worker_that_has_run_before(
    first: Launch, second: Launch, tiny: bool, threads: list[int]
) -> None:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(_threads_of_a_worker, (first, second, tiny)) == threads


@pytest.mark.parametrize(
    ("typed_in", "of_study", "vary"),
    [
        ([], {"seed": "0,1", "head": "average_pool,global_average_pool"}, False),
        (["dataset=digits", "training.learning_rate=0.1,0.2"], {"seed": "0,1"}, False),
        (["dataset=digits,fashion_mnist"], {}, True),
        ([], {"dataset.image_size": "[8,8],[16,16]"}, True),
        (["training.batch_size=choice(16,32)"], {"seed": "range(3)"}, True),
        (["arm=a,b"], {}, True),
    ],
)
def test_a_sweep_over_image_sizes_is_known_to_be_one(
    typed_in: list[str], of_study: dict[str, str], vary: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("output_dir", "sweep_dir", "sweeps_over"):
        monkeypatch.setattr(SESSION, name, getattr(SESSION, name))
    hydra = {"sweep": {"dir": "s"}, "sweeper": {"params": of_study}, "overrides": {"task": typed_in}}
    SweepInfo().on_multirun_start(OmegaConf.create({"output_dir": "o", "hydra": hydra}))
    assert SESSION.image_sizes_vary() is vary


@pytest.mark.slow
def test_parallel_runs_are_those_of_the_local_study(tmp_path: Path) -> None:
    arguments = [*STUDY, "head=flatten_dense,global_average_pool", "seed=0", "training.epochs=2"]
    outputs = {}
    for name, launch in (
        ("local", ["launch=local", "launch.threads=1"]),
        ("parallel", ["launch=parallel", "launch.workers=2", "launch.threads=1"]),
    ):
        (tmp_path / name).mkdir()
        result = run_program("pipeline.train", *arguments, *launch, cwd=tmp_path / name)
        assert result.returncode == 0, result.stderr
        outputs[name] = result.stdout
    local, parallel = ({name: _points(run) for name, run in _runs(tmp_path / name).items()} for name in outputs)
    assert parallel == local
    assert sorted(parallel) == ["flatten_dense seed 0", "global_average_pool seed 0"]
    keys = [{run.data.tags["run_key"] for run in _runs(tmp_path / name).values()} for name in outputs]
    assert keys[0] == keys[1]
    assert len({name for run in _runs(tmp_path / "parallel").values() for name in sweeps(run)}) == 1
    assert not [key for run in _runs(tmp_path / "parallel").values() for key in run.data.params if "launch" in key]

    accuracies = {
        run.data.params["head"]: run.data.metrics["test/accuracy"] for run in _runs(tmp_path / "local").values()
    }
    for output in outputs.values():  # The comparison follows, in the process that launched.
        for head, accuracy in accuracies.items():
            assert re.search(rf"│ {head} +│ +1 │ +{accuracy:.4f} │", output)
    first, second = (re.findall(rf"^\[{number}\]   epoch \d/2  accuracy", outputs["parallel"], re.M) for number in "01")
    assert (len(first), len(second)) == (2, 2)


@pytest.mark.slow
def test_a_parallel_run_that_fails_does_not_stop_the_others(tmp_path: Path) -> None:
    """Of three heads, only global average pooling takes 12 px."""
    arguments = ["seed=0", "training.epochs=1", "training.sizes=[8,12]", "launch=parallel"]
    result = run_program("pipeline.train", *STUDY, *arguments, cwd=tmp_path)
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    end = result.stderr[result.stderr.index("2 runs of this sweep failed:") :].splitlines()
    assert end[1].startswith("- training.sizes=[8, 12]: head=flatten_dense on small_fcn has to take every one of them")
    assert end[3].startswith("- training.sizes=[8, 12]: head=average_pool")
    assert [run.data.tags["head"] for run in _runs(tmp_path).values()] == ["global_average_pool"]
    assert "│ global_average_pool" in result.stdout


def _workers(process: subprocess.Popen[str]) -> list[psutil.Process]:
    children = psutil.Process(process.pid).children(recursive=True)
    return [child for child in children if "LokyProcess" in " ".join(child.cmdline())]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "code", "reason", "goes_on"),
    [
        ("Ctrl-C in a terminal", 130, "Ctrl-C", False),
        ("SIGTERM", 143, "SIGTERM", False),
        (
            "SIGKILL to a worker",
            1,
            "a worker process was killed, by hand or because memory ran out, and the others with it",
            True,
        ),
    ],
)
def test_a_parallel_study_stops_as_a_whole_and_goes_on(
    how: str, code: int, reason: str, goes_on: bool, tmp_path: Path
) -> None:
    arguments = [
        *(*STUDY, "head=flatten_dense,global_average_pool", "seed=0", "launch=parallel"),
        *("launch.workers=2", f"training.epochs={EPOCHS}", "training.checkpoint_seconds=0"),
        "dataset.train_split='train[:50%]'",
    ]
    process = start_program("pipeline.train", *arguments, cwd=tmp_path, stderr=subprocess.PIPE, start_new_session=True)
    assert process.stdout is not None
    under_way: set[str] = set()
    for line in process.stdout:
        if f"epoch 3/{EPOCHS}" in line:
            under_way.add(line[:3])
        if under_way == {"[0]", "[1]"}:
            break
    workers = _workers(process)
    assert len(workers) == 2
    if code == 130:
        os.killpg(process.pid, signal.SIGINT)  # A terminal sends it to all of them.
    elif code == 143:
        process.terminate()
    else:
        workers[0].kill()
    _, stderr = process.communicate(timeout=HANG_SECONDS)
    assert process.returncode == code
    assert "Traceback" not in stderr
    if code == 1:
        assert stderr.strip().startswith(f"Error: {reason}. What was begun goes on")
    assert psutil.wait_procs(workers, timeout=HANG_SECONDS)[1] == []
    stopped = _runs(tmp_path)
    assert {(run.info.status, run.data.tags["failure"]) for run in stopped.values()} == {("KILLED", reason)}

    if not goes_on:  # One of them is enough: they leave the same behind.
        return
    result = run_program("pipeline.train", *arguments, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert len(re.findall(rf"going on after epoch \d+/{EPOCHS} of an interrupted run", result.stdout)) == 2
    finished = _runs(tmp_path)
    assert {run.info.status for run in finished.values()} == {"FINISHED"}
    assert {name: run.info.run_id for name, run in finished.items()} == {
        name: run.info.run_id for name, run in stopped.items()
    }
