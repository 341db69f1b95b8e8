"""A tracking server that dies, hangs or answers with errors stops no training and costs no result."""

from __future__ import annotations

import itertools
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from pipeline.tracking.queries import sweeps
from pipeline.tracking.server import talk
from tests.conftest import HANG_SECONDS, read_until, standing_still
from tests.program.forked import Forked, run_forked
from tests.program.servers import (
    PATIENCE,
    PATIENT,
    TRACKING_SERVER,
    Relay,
    free_port,
    refuse,
    running,
    saying,
    start,
    stop,
)
from tests.tracking.test_talk import ANSWERS

pytestmark = pytest.mark.slow
EPOCHS = 24
HEALTH_SECONDS = "pipeline.tracking.server.talk.HEALTH_SECONDS"
SILENT_SECONDS = "pipeline.tracking.server.peers.SILENT_SECONDS"
STUDY = (
    *("pipeline.train", "study=heads", "seed=0", "head=average_pool,global_average_pool"),
    *(f"training.epochs={EPOCHS}", "size_probe.ways=[]", "size_probe.sizes=[8]"),
)


def _trained(uri: str) -> dict[str, Run]:
    runs = MlflowClient(uri).search_runs(["1"], "tags.head != ''")
    found = {run.info.run_name: run for run in runs}
    assert len(found) == len(runs)  # No run is there twice.
    return found


def _points(uri: str, run: Run) -> list[tuple[str, int, int, str]]:
    """All points of a run's metrics; one that is there twice is there twice."""
    histories = (MlflowClient(uri).get_metric_history(run.info.run_id, key) for key in run.data.metrics)
    points = itertools.chain.from_iterable(histories)
    return sorted((point.key, point.step, point.timestamp, repr(point.value)) for point in points)


def _recorded(uri: str, run: Run) -> dict[str, Any]:
    """All that was recorded of a run, without what is different in every store."""
    client = MlflowClient(uri)
    ours = ("delivered", "heartbeat", "recorded_as", "mlflow.loggedArtifacts")
    files = {file.path: file.file_size for file in client.list_artifacts(run.info.run_id)}
    (model,) = run.outputs.model_outputs
    return {
        "metrics": set(_points(uri, run)),
        "params": run.data.params,
        "tags": {key: text.replace(run.info.run_id, "") for key, text in run.data.tags.items() if key not in ours},
        "files": files,
        "model": {
            f.path: f.file_size for f in client.list_logged_model_artifacts(model.model_id) if f.path != "MLmodel"
        },
        "datasets": {
            (used.dataset.name, used.dataset.digest, used.tags[0].value) for used in run.inputs.dataset_inputs
        },
        "end": (run.info.status, run.info.start_time, run.info.end_time),
    }


def _assert_all_there(client: Path, uri: str) -> None:
    local = f"sqlite:///{client / 'outputs' / 'mlflow.db'}"
    ours, theirs = _trained(local), _trained(uri)
    assert set(theirs) == set(ours) == {"average_pool seed 0", "global_average_pool seed 0"}
    for name, run in ours.items():
        assert _recorded(uri, theirs[name]) == _recorded(local, run)
        points = MlflowClient(uri).get_metric_history(theirs[name].info.run_id, "train/loss")
        assert sorted(point.step for point in points) == list(range(1, EPOCHS + 1))
        mlflow.set_tracking_uri(uri)
        model = mlflow.pyfunc.load_model(f"models:/{theirs[name].outputs.model_outputs[0].model_id}")
        assert np.asarray(model.predict(np.zeros((1, 8, 8, 1), np.uint8))).shape == (1, 10)
    print(f"{sum(len(_recorded(uri, run)['metrics']) for run in theirs.values())} points, none lost")


@pytest.mark.parametrize("outage", ["killed", "hung"])
def test_a_server_that_is_gone_for_a_while_gets_everything(tmp_path: Path, outage: str) -> None:
    """From an epoch of the first run to one of the second, which no epoch would come to that needed the server."""
    (tmp_path / "server").mkdir()
    (tmp_path / "client").mkdir()
    port = free_port()
    server = start(*TRACKING_SERVER, port=port, cwd=tmp_path / "server")
    uri = f"http://127.0.0.1:{port}"
    process = Forked(
        # It has to give up one that hangs, and after the two seconds of the program a slow one may be taken for that.
        *(("tests.program.with_limits", f"{HEALTH_SECONDS}=20") if outage == "hung" else PATIENT),
        *(*STUDY, "tracking=server", f"tracking.uri={uri}"),
        cwd=tmp_path / "client",
        stderr=subprocess.STDOUT,
        environment={} if outage == "hung" else PATIENCE,
    )
    output, epochs = "", 0
    assert process.stdout is not None
    try:
        for line in process.stdout:
            output += line
            if f"/{EPOCHS}  accuracy" in line:
                epochs += 1
                if epochs == 3:  # In the first run,
                    if outage == "killed":
                        stop(server, signal.SIGKILL)
                    else:
                        os.killpg(server.pid, signal.SIGSTOP)
                if epochs == EPOCHS + 3:  # and in the second.
                    if outage == "killed":
                        with standing_still(process, tmp_path / "client" / "outputs" / "mlflow.db"):
                            server = start(*TRACKING_SERVER, port=port, cwd=tmp_path / "server")
                    else:
                        os.killpg(server.pid, signal.SIGCONT)
        assert process.wait() == 0, output
        assert f"tracking.uri={uri} does not answer; going on, recorded in output_dir" in output
        assert f"{uri}/#/experiments/1/runs" in output  # The comparison is on the server.
        _assert_all_there(tmp_path / "client", uri)
    finally:
        process.kill()
        stop(server)


def test_no_epoch_waits_for_a_server_that_hangs(tmp_path: Path) -> None:
    """Whatever waits for it waits until it goes on, which is after the last epoch: no epoch does."""
    (tmp_path / "server").mkdir()
    (tmp_path / "client").mkdir()
    port = free_port()
    server = start(*TRACKING_SERVER, port=port, cwd=tmp_path / "server")
    uri = f"http://127.0.0.1:{port}"
    process = Forked(
        *(*PATIENT, *_run_on(uri, EPOCHS)),
        cwd=tmp_path / "client",
        stderr=subprocess.STDOUT,
        environment=PATIENCE,
    )
    output = ""
    assert process.stdout is not None
    try:
        for line in process.stdout:
            output += line
            if f"epoch 3/{EPOCHS}  accuracy" in line:
                os.killpg(server.pid, signal.SIGSTOP)
            if f"epoch {EPOCHS}/{EPOCHS}  accuracy" in line:
                os.killpg(server.pid, signal.SIGCONT)
        assert process.wait() == 0, output
        (run,) = _trained(uri).values()
        points = MlflowClient(uri).get_metric_history(run.info.run_id, "train/loss")
        assert sorted(point.step for point in points) == list(range(1, EPOCHS + 1))
    finally:
        process.kill()
        stop(server)


def test_a_server_that_never_comes_back_gets_everything_by_sync(tmp_path: Path) -> None:
    (tmp_path / "server").mkdir()
    (tmp_path / "client").mkdir()
    port = free_port()
    server = start(*TRACKING_SERVER, port=port, cwd=tmp_path / "server")
    address = f"tracking.uri=http://127.0.0.1:{port}"
    process = Forked(
        *(*PATIENT, *STUDY, "tracking=server", address),
        cwd=tmp_path / "client",
        stderr=subprocess.STDOUT,
        environment=PATIENCE,
    )
    output = ""
    assert process.stdout is not None
    for line in process.stdout:
        output += line
        if f"epoch 3/{EPOCHS}" in line and server.poll() is None:
            stop(server, signal.SIGKILL)
    assert process.wait() == 1
    assert "│ global_average_pool" in output  # The comparison is there all the same.
    assert f"{address}: the MLflow server has 0 of these 2 runs; all of them are in output_dir." in output
    command = f"pipeline.sync {address} output_dir={tmp_path / 'client' / 'outputs'}"
    assert f"python -m {command}" in output

    without = run_forked(*command.split(), cwd=tmp_path)
    assert without.returncode == 2
    assert f"{address}: the MLflow store does not answer" in without.stderr

    server = start(*TRACKING_SERVER, port=port, cwd=tmp_path / "server")
    try:
        result = run_forked(*PATIENT, *command.split(), cwd=tmp_path, environment=PATIENCE)
        assert result.returncode == 0, result.stderr
        assert f"2 of 2 runs copied to http://127.0.0.1:{port}; it had 0" in result.stdout
        assert f"http://127.0.0.1:{port}/#/experiments/1/runs" in result.stdout
        _assert_all_there(tmp_path / "client", f"http://127.0.0.1:{port}")
        again = run_forked(*PATIENT, *command.split(), cwd=tmp_path, environment=PATIENCE)
        assert again.returncode == 0
        assert f"0 of 0 runs copied to http://127.0.0.1:{port}; it had 2" in again.stdout
        _assert_all_there(tmp_path / "client", f"http://127.0.0.1:{port}")
    finally:
        stop(server)


def test_whatever_a_server_says_in_the_middle_of_a_run_nothing_is_lost(tmp_path: Path) -> None:
    """Answer after answer, each for two updates of the copy and more, while the training goes on."""
    beat_seconds, says = 1.0, [(name, saying(text)) for name, text in ANSWERS.items()]
    says += [("a byte a second", saying(ANSWERS["nothing that is asked for"], 1)), ("refusal", refuse)]
    says += [("silence", lambda connection: time.sleep(HANG_SECONDS))]
    until_given_up = dict.fromkeys(("a byte a second", "silence"), talk.HEALTH_SECONDS)
    (tmp_path / "server").mkdir()
    (tmp_path / "client").mkdir()
    port = free_port()
    server = start(*TRACKING_SERVER, port=port, cwd=tmp_path / "server")
    relay = Relay(port)
    process = Forked(
        *("tests.program.with_limits", f"pipeline.tracking.server.replicate.BEAT_SECONDS={beat_seconds}"),
        *_run_on(relay.uri, 100_000),
        cwd=tmp_path / "client",
        stderr=subprocess.STDOUT,
    )
    assert process.stdout is not None
    output, told, since, before, longest = "", "", 0.0, 0.0, 0.0
    try:
        for line in process.stdout:
            output += line
            now = time.monotonic()
            if "/100000  accuracy" not in line:
                continue
            longest = max(longest, now - before if before else 0)
            before = now
            if now - since > 2.4 * (beat_seconds + until_given_up.get(told, 0)):
                if told and not says:
                    process.send_signal(signal.SIGINT)
                    break
                told, what = says.pop(0)
                relay.say(what)
                since = now
        output += process.stdout.read()
        assert process.wait() == 130, output
        assert "Traceback" not in output
        print(f"the longest time from one epoch to the next was {longest:.1f} s")
        sync = ("pipeline.sync", f"tracking.uri=http://127.0.0.1:{port}")
        result = run_forked(*PATIENT, *sync, cwd=tmp_path / "client", environment=PATIENCE)
        assert result.returncode == 0, result.stderr
        here, there = f"sqlite:///{tmp_path / 'client' / 'outputs' / 'mlflow.db'}", f"http://127.0.0.1:{port}"
        (ours,), (theirs,) = _trained(here).values(), _trained(there).values()
        assert (ours.info.status, theirs.info.status) == ("KILLED", "KILLED")
        assert theirs.data.params == ours.data.params
        assert _points(there, theirs) == _points(here, ours)
        assert len(_points(here, ours)) >= 4 * output.count("/100000  accuracy") - 4
    finally:
        process.kill()
        relay.shutdown()
        stop(server)


@contextmanager
def _first_machine_at_work(tmp_path: Path, epochs: int) -> Iterator[tuple[str, Forked]]:
    """URI of a server that knows of a run, and the run, which is training and has an output_dir of its own."""
    for name in ("server", "first", "second"):
        (tmp_path / name).mkdir()
    with running(*TRACKING_SERVER, cwd=tmp_path / "server") as uri:
        first = Forked(
            *(*PATIENT, *_run_on(uri, epochs)),
            cwd=tmp_path / "first",
            stderr=subprocess.STDOUT,
            environment=PATIENCE,
        )
        read_until(first, f"epoch 2/{epochs}")
        while not MlflowClient(uri).search_experiments(filter_string="name = 'digits'") or not _runs(uri):
            assert first.poll() is None
            time.sleep(0.1)
        yield uri, first


def _runs(uri: str) -> list[Run]:
    return MlflowClient(uri).search_runs(["1"], order_by=["attributes.start_time ASC"])


def _run_on(uri: str, epochs: int) -> list[str]:
    return [
        *("pipeline.train", f"training.epochs={epochs}", "size_probe.ways=[]", "size_probe.sizes=[8]"),
        *("tracking=server", f"tracking.uri={uri}"),
    ]


def test_two_machines_with_one_server_train_a_run_once(tmp_path: Path) -> None:
    """Each has an output_dir of its own; what they share is the server."""
    with _first_machine_at_work(tmp_path, epochs=60) as (uri, first):
        with standing_still(first, tmp_path / "first" / "outputs" / "mlflow.db"):
            second = Forked(
                *(*PATIENT, f"{SILENT_SECONDS}={HANG_SECONDS}", *_run_on(uri, epochs=60)),
                cwd=tmp_path / "second",
                stderr=subprocess.STDOUT,
                environment=PATIENCE,
            )
            output = read_until(second, "waiting for it to end")
        first.communicate()
        output += second.communicate()[0]
        assert (first.returncode, second.returncode) == (0, 0), output
        (run,) = _trained(uri).values()
        assert f"Another machine is at this run, as {run.info.run_id} on the server; waiting" in output
        assert f"done before, as run {run.info.run_id}" in output
        assert re.search(rf"{uri}/#/experiments/1/runs/{run.info.run_id}", output)


def test_a_run_whose_machine_fell_silent_is_taken_over(tmp_path: Path) -> None:
    with _first_machine_at_work(tmp_path, epochs=60) as (uri, first):
        first.kill()
        first.wait()
        patient = (*PATIENT, f"{SILENT_SECONDS}=20")
        second = run_forked(*patient, *_run_on(uri, epochs=60), cwd=tmp_path / "second", environment=PATIENCE)
        assert second.returncode == 0, second.stderr
        runs = _runs(uri)
        assert [run.info.status for run in runs] == ["KILLED", "FINISHED"]
        assert runs[0].data.tags["failure"] == "no heartbeat for 20 s"


def test_sync_compares_all_runs_of_a_sweep_and_not_those_alone_that_it_brings(tmp_path: Path) -> None:
    sweep = (
        "pipeline.train",
        "--multirun",
        "head=flatten_dense,global_average_pool",
        "training.epochs=1",
        "size_probe.sizes=[8]",
    )
    with running(*TRACKING_SERVER, cwd=tmp_path) as uri:
        server = ("tracking=server", f"tracking.uri={uri}")
        there = run_forked(*PATIENT, *sweep, "seed=0", *server, cwd=tmp_path, environment=PATIENCE)
        assert there.returncode == 0, there.stderr
        here = run_forked(*sweep, "seed=0,1", cwd=tmp_path)
        assert (here.returncode, here.stdout.count("done before")) == (0, 2), here.stderr
        brought = run_forked(*PATIENT, "pipeline.sync", f"tracking.uri={uri}", cwd=tmp_path, environment=PATIENCE)
        assert brought.returncode == 0, brought.stderr
        assert f"2 of 2 runs copied to {uri}; it had 2" in brought.stdout
        assert "no seed in common" not in brought.stdout
        per_run = [sweeps(run) for run in MlflowClient(uri).search_runs(["1"], "tags.head != ''")]
        assert sorted(map(len, per_run)) == [1, 1, 2, 2]
        assert len(set.intersection(*map(set, per_run))) == 1
