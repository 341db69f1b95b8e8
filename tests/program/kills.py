"""Kills commands of the program at random steps, gives them again, and compares what is there with an undisturbed one.

python -m tests.program.kills 1000 [--only train]     # hours; test_kills.py does a few
"""

from __future__ import annotations

import argparse
import hashlib
import random
import re
import shutil
import signal
import sqlite3
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
from mlflow import MlflowClient
from mlflow.entities import Run

from pipeline.common.digest import file_digest
from pipeline.common.files import INCOMPLETE
from pipeline.common.names import TIMED
from tests.program.forked import FORKED, Ended, run_forked
from tests.program.servers import PATIENCE, PATIENT, TRACKING_SERVER, running

DIGITS = (
    *("training.epochs=2", "training.deterministic=true", "training.checkpoint_seconds=0"),
    *("dataset.train_split='train[:30%]'", "size_probe.ways=[]", "size_probe.sizes=[8,12]"),
)
TRAIN = (
    *("pipeline.train", "study=heads", "head=flatten_dense,global_average_pool", "seed=0"),
    *("tracking.register_as=kept", *DIGITS),
)
SEARCH = (
    *("pipeline.train", "--multirun", "hydra/sweeper=search", "hydra.sweeper.n_trials=3", "launch.threads=1"),
    *("training.prune=false", *DIGITS),
)
OF_A_CALL = ("sweep", "command")
"""Beginnings of tags that say when and how often a training was asked for."""
OF_A_STORE = ("mlflow.", "heartbeat", "recorded_as")
"""Beginnings of tags that differ in every store."""


@dataclass
class Scenario:
    """A command to kill.

    Attributes:
        name: For the report.
        command: That is killed.
        state: What is there in the end, to be equal.
        share: Of all kills.
        kills: In a row, before the command is left to end.
        trained: Whether `TRAIN` comes before it.
        between: Called with each fresh directory.
    """

    name: str
    command: tuple[str, ...]
    state: Callable[[Path], Any]
    share: float
    kills: int
    trained: bool = True
    between: Callable[[Path, int], None] = field(default=lambda directory, number: None)


def _client(directory: Path) -> MlflowClient:
    return MlflowClient(f"sqlite:///{directory / 'outputs' / 'mlflow.db'}")


def recorded(client: MlflowClient, run: Run, but: tuple[str, ...] = OF_A_STORE + OF_A_CALL) -> dict[str, Any]:
    """All that was recorded of a run, but for ids and times, and for tags with some beginnings."""
    models = [client.get_logged_model(output.model_id) for output in run.outputs.model_outputs]
    points = {
        name: sorted((point.step, repr(point.value)) for point in client.get_metric_history(run.info.run_id, name))
        for name in run.data.metrics
    }
    return {
        "status": run.info.status,
        "points": {name: len(values) if name in TIMED else values for name, values in points.items()},
        "params": run.data.params,
        "tags": {
            name: text.replace(run.info.run_id, "") for name, text in run.data.tags.items() if not name.startswith(but)
        },
        "files": sorted(file.path for file in client.list_artifacts(run.info.run_id)),
        "datasets": sorted(used.dataset.digest for used in run.inputs.dataset_inputs),  # In no order.
        "models": [
            sorted(file.path for file in client.list_logged_model_artifacts(model.model_id))
            for model in models
            if model.status == "READY"
        ],
        "not whole": sorted({str(model.status) for model in models} - {"READY", "FAILED"}),
        "versions": len(client.search_model_versions(f"run_id = '{run.info.run_id}'")),
    }


def runs_recorded(client: MlflowClient) -> list[tuple[str, dict[str, Any]]]:
    """All trained runs by name; one that is there twice is there twice."""
    found = [
        run
        for experiment in client.search_experiments()
        for run in client.search_runs([experiment.experiment_id], "tags.head != ''")
    ]
    return sorted(((run.info.run_name, recorded(client, run)) for run in found), key=str)


def _trained(directory: Path) -> dict[str, Any]:
    outputs = directory / "outputs"
    reports = sorted((outputs / "studies").glob("*/runs.parquet"))
    columns = ["tags.head", "params.seed", "params.training.learning_rate", "metrics.test/accuracy"]
    return {
        "runs": runs_recorded(_client(directory)),
        "unfinished": [path.name for path in (outputs / "unfinished").iterdir() if path.suffix != ".lock"],
        "half written": [path.name for path in outputs.rglob(f"{INCOMPLETE}*")],
        "reported": sorted(pd.read_parquet(reports[-1])[columns].astype(str).values.tolist()),
    }


def _compared(directory: Path) -> dict[str, Any]:
    """The files of the report byte for byte, and what the store says of the study."""
    studies = directory / "outputs" / "studies"
    client = _client(directory)
    experiments = {
        experiment.name: {name: text for name, text in experiment.tags.items() if "viewState" in name or "note" in name}
        for experiment in client.search_experiments()
    }
    return {
        "files": {
            str(path.relative_to(studies)): file_digest(path) for path in sorted(studies.rglob("*")) if path.is_file()
        },
        "experiments": experiments,
        "runs": runs_recorded(client),
        "half written": [path.name for path in directory.rglob(f"{INCOMPLETE}*")],
    }


def _converted(directory: Path) -> dict[str, Any]:
    """The model's parts but for the date on which it was written, and the addresses of Keras's objects."""
    with zipfile.ZipFile(directory / "out.keras") as written:
        parts = {name: written.read(name) for name in written.namelist() if name != "metadata.json"}
    parts["config.json"] = re.sub(rb'"shared_object_id": \d+', b"", parts["config.json"])
    return {
        "parts": {name: hashlib.sha256(content).hexdigest() for name, content in parts.items()},
        "beside": sorted(path.name for path in directory.iterdir() if path.name != "outputs"),
    }


def _rename_experiment(directory: Path, number: int) -> None:
    """So that each round brings a server runs that it has not seen."""
    with closing(sqlite3.connect(directory / "outputs" / "mlflow.db")) as store, store:
        store.execute("UPDATE experiments SET name = ? WHERE name = 'digits'", (f"digits {number}",))


def _replicated(uri: str, directory: Path) -> list[tuple[str, dict[str, Any]]]:
    (name,) = {each.name for each in _client(directory).search_experiments() if each.name.startswith("digits")}
    server = MlflowClient(uri)
    experiment = server.get_experiment_by_name(name)
    assert experiment is not None
    runs = server.search_runs([experiment.experiment_id], "tags.head != ''")
    return sorted(((run.info.run_name, recorded(server, run, OF_A_STORE)) for run in runs), key=str)


def _there(scenario: Scenario, directory: Path) -> Any:
    """The state, read by a process of its own: MLflow keeps a store open, also one that was replaced."""
    with ProcessPoolExecutor(1, mp_context=FORKED) as reader:
        return reader.submit(scenario.state, directory).result()


@contextmanager
def scenarios(only: str | None, root: Path) -> Iterator[list[Scenario]]:
    """Those that are asked for; a server runs as long as they are needed."""
    keras = ("pipeline.convert", "model=models:/kept/1", "way=dense_to_conv", "output=out.keras")
    found = [
        Scenario("train", TRAIN, _trained, 0.3, 6, trained=False),
        Scenario("search", SEARCH, _trained, 0.1, 6, trained=False),
        Scenario("compare", ("pipeline.compare", "study=heads"), _compared, 0.25, 3),
        Scenario("convert", keras, _converted, 0.2, 3),
    ]
    if only not in (None, "sync"):
        yield [scenario for scenario in found if scenario.name == only]
        return
    (root / "server").mkdir()
    with running(*TRACKING_SERVER, cwd=root / "server") as uri:
        sync = (*PATIENT, "pipeline.sync", f"tracking.uri={uri}")
        found.append(Scenario("sync", sync, partial(_replicated, uri), 0.15, 6, between=_rename_experiment))
        yield [scenario for scenario in found if only is None or scenario.name == only]


def _begin(scenario: Scenario, root: Path, number: int) -> None:
    """Brings the directory `work` of `root` to what is there before the command."""
    directory, trained = root / "work", root / "trained"
    shutil.rmtree(directory, ignore_errors=True)
    if scenario.trained and trained.exists():
        shutil.copytree(trained, directory)
    else:
        directory.mkdir()
        if scenario.trained:
            _well(run_forked(*TRAIN, cwd=directory))  # Here, as a store knows where its files are.
            shutil.copytree(directory, trained)
    scenario.between(directory, number)


def kill(scenario: Scenario, kills: int, root: Path, draw: random.Random) -> int:
    """Kills a command so many times; every time but the last of a row it is killed again, then it has to end.

    Returns:
        How many different steps it was killed at.

    Raises:
        AssertionError: What is there then is not what an undisturbed command leaves.
    """
    directory, command = root / "work", scenario.command
    _begin(scenario, root, 0)
    undisturbed = _well(run_forked(*command, cwd=directory, environment=PATIENCE))
    expected = _there(scenario, directory)
    killed, positions, number = 0, set(), 0
    while killed < kills:
        number += 1
        _begin(scenario, root, number)
        told = []
        for _ in range(scenario.kills):
            step = draw.randint(1, undisturbed.steps)
            # Now and then between two steps, wherever the clock says.
            seconds = draw.uniform(0, undisturbed.seconds) if draw.random() < 0.2 else None
            ended = run_forked(
                *command, cwd=directory, kill_at=None if seconds else step, kill_after=seconds, environment=PATIENCE
            )
            if ended.returncode == 0:
                break  # There was less left to do.
            told.append(f"after {seconds:.2f} s" if seconds else f"at step {step}")
            assert ended.returncode == -signal.SIGKILL, f"{scenario.name} {', '.join(told)}: {ended.output}"
            killed += 1
            positions.add(step)
        told_all = f"{scenario.name}, round {number}, killed {', '.join(told)}"
        _well(run_forked(*command, cwd=directory, environment=PATIENCE), told_all)
        found = _there(scenario, directory)
        assert found == expected, f"{told_all}:\n{differences(expected, found)}"
        print(f"{scenario.name}: {killed} kills", flush=True)
    return len(positions)


def _well(ended: Ended, told: str = "") -> Ended:
    assert ended.returncode == 0, f"{told}: {ended.output}"
    assert "Traceback" not in ended.output, f"{told}: {ended.output}"
    return ended


def differences(expected: Any, found: Any, path: str = "") -> str:
    """Where two nested values differ, a line each."""
    if isinstance(expected, dict) and isinstance(found, dict):
        keys = sorted({*expected, *found}, key=str)
        return "".join(differences(expected.get(key), found.get(key), f"{path}/{key}") for key in keys)
    if isinstance(expected, list | tuple) and isinstance(found, list | tuple) and len(expected) == len(found):
        pairs = zip(expected, found, strict=True)
        return "".join(differences(*pair, f"{path}/{number}") for number, pair in enumerate(pairs))
    return "" if expected == found else f"{path}: {expected!r} became {found!r}\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("kills", type=int)
    parser.add_argument("--only", choices=["train", "search", "compare", "convert", "sync"])
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as root, scenarios(arguments.only, Path(root)) as chosen:
        whole = sum(scenario.share for scenario in chosen)
        for scenario in chosen:
            kills = round(arguments.kills * scenario.share / whole)
            positions = kill(scenario, kills, Path(root), random.Random(arguments.seed))
            print(
                f"{scenario.name}: {kills} kills, {positions} different steps: nothing lost, nothing twice", flush=True
            )


if __name__ == "__main__":
    main()
