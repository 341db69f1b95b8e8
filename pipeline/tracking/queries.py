"""What a study's runs left in MLflow, read back."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import mlflow
import pandas as pd
from mlflow import MlflowClient
from mlflow.artifacts import download_artifacts
from mlflow.entities import Run

from pipeline.common.condition import TEST, Condition, Mode
from pipeline.common.names import (
    ANSWERS,
    CALIBRATION,
    LABELS,
    RECALL,
    SWEEP,
    SWEEP_COMMAND,
    File,
    Metric,
    Tag,
    sweep_tag,
)
from pipeline.comparison.answers import pack, pack_labels
from pipeline.comparison.schema import MAX_TEXT


def membership(sweep: str) -> tuple[str, str]:
    """The tag, name and value, of a run that belongs to a sweep from now on.

    A run that is asked for again belongs to each of the sweeps that asked for it, whose comparisons all need it.
    """
    return sweep_tag(sweep), f"{time.time():.3f}"


def sweeps(run: Run) -> dict[str, str]:
    """The names of the sweeps that a run belongs to, and since when."""
    return {name.removeprefix(SWEEP): at for name, at in run.data.tags.items() if name.startswith(SWEEP)}


def sweep_filter(sweep: str) -> str:
    """MLflow's filter for the runs of a sweep."""
    return f"tags.`{sweep_tag(sweep)}` != ''"


def runs_of_sweep(sweep: str) -> pd.DataFrame:
    """All runs of one call of a study, a row each, as `mlflow.search_runs` gives them, with its name as `sweep`."""
    return _of_sweep(_search(sweep_filter(sweep)), sweep)


def registered_runs() -> set[str]:
    """The ids of runs of which the model registry has a model."""
    return {str(version.run_id) for version in mlflow.MlflowClient().search_model_versions()}


def record_command(runs: pd.DataFrame, sweep: str, command: str) -> None:
    """Records of a sweep's runs, also of those that were trained before it, what was typed to start it."""
    if len(command) > MAX_TEXT:
        return  # A part of it would be another one.
    for run_id in runs.get("run_id", []):
        mlflow.MlflowClient().set_tag(run_id, sweep_tag(sweep, SWEEP_COMMAND), command)


def whole_trainings(sweep: str, dataset: str, epochs: int) -> list[list[float]]:
    """Validation accuracies, epoch by epoch, of the finished runs of a sweep so far that were not pruned.

    Args:
        sweep: Its name.
        dataset: TFDS name; runs on others are left out.
        epochs: The same for those that were to have another number of epochs.
    """
    runs = runs_of_sweep(sweep)
    if runs.empty:
        return []
    whole = (runs["status"] == "FINISHED") & (runs[Tag.DATASET.column] == dataset)
    whole &= runs["params.training.epochs"] == str(epochs)
    if Tag.PRUNED.column in runs:
        whole &= runs[Tag.PRUNED.column].isna()
    client = mlflow.MlflowClient()
    return [list(validation_accuracies(client, run_id).values()) for run_id in runs["run_id"][whole]]


def validation_accuracies(client: MlflowClient, run_id: str) -> dict[int, float]:
    """Validation accuracy after each epoch, counted from 1; of one that a killed run did again, the later one."""
    points = client.get_metric_history(run_id, Metric.VALIDATION_ACCURACY)
    return {point.step: point.value for point in sorted(points, key=lambda point: (point.step, point.timestamp))}


def newest_runs(study: str) -> pd.DataFrame:
    """The runs of the newest call of a study, in each experiment that has any, with the call's name as `sweep`."""
    runs = _search(f"{Tag.STUDY.column} = '{study}'")
    prefix = f"tags.{SWEEP}"
    calls_of = runs[[column for column in runs if str(column).startswith(prefix)]]
    # On a shared server, anybody can write tags: what is no time is no call.
    since = calls_of.apply(pd.to_numeric, errors="coerce").astype(float).dropna(how="all")
    found = [runs.iloc[:0].assign(sweep="")]
    for _, calls in since.groupby(runs["experiment_id"]):
        newest = calls.max().idxmax()
        found.append(_of_sweep(runs.loc[calls.index[calls[newest].notna()]], newest.removeprefix(prefix)))
    return pd.concat(found) if len(found) > 1 else found[0]


def one_run(run_id: str) -> pd.DataFrame:
    """One run, as a row."""
    return _search(f"attributes.run_id = '{run_id}'")


def trained_runs(study: str | None = None) -> pd.DataFrame:
    """All trained runs, or those of one study, the oldest first; reports are not among them."""
    return _search(f"{Tag.HEAD.column} != ''" + (f" and {Tag.STUDY.column} = '{study}'" if study else ""))


def entities(runs: pd.DataFrame) -> list[Run]:
    """The same runs as MLflow's entities."""
    return [mlflow.MlflowClient().get_run(run_id) for run_id in runs.get("run_id", [])]


def studies() -> list[str]:
    """Names of all studies in the store, sorted."""
    runs = _search(f"{Tag.STUDY.column} != ''")
    return sorted(runs[Tag.STUDY.column].unique()) if len(runs) else []


def _of_sweep(runs: pd.DataFrame, sweep: str) -> pd.DataFrame:
    """Runs with the name of their sweep as `sweep`, and what was typed for it, where that is recorded, as a tag."""
    typed = runs.get(f"tags.{sweep_tag(sweep, SWEEP_COMMAND)}")
    return runs.assign(sweep=sweep, **({} if typed is None else {Tag.COMMAND.column: typed}))


def _search(filter_string: str) -> pd.DataFrame:
    return mlflow.search_runs(
        search_all_experiments=True, filter_string=filter_string, order_by=["attributes.start_time ASC"]
    )


def with_answers(runs: pd.DataFrame) -> pd.DataFrame:
    """The same table with a column `answers.CONDITION` for each condition, as `comparison.analysis` takes it.

    And one `labels` with the classes of the test images, one `recall.CLASS` for each class, NaN where there is no test
    image of it, and one `calibration.CONDITION` for each size, NaN where it is refused. Of a run of an earlier version,
    which did not record these, there is none of them.

    Args:
        runs: Finished runs, as `mlflow.search_runs` gives them, each with its recorded predictions.
    """
    balanced = runs.get(Metric.TEST_BALANCED_ACCURACY.column, pd.Series(index=runs.index, dtype=float))
    pairs = [*zip(runs["artifact_uri"], balanced.notna(), strict=True)]  # They were recorded together.
    recalls = [_recalls(files) if has_recalls else {} for files, has_recalls in pairs]
    answers = pd.DataFrame(
        [_answers(files, [*of_run]) for files, of_run in zip(runs["artifact_uri"], recalls, strict=True)],
        index=runs.index,
    )
    numbers = [
        pd.DataFrame(found, index=runs.index, dtype=float).add_prefix(prefix)
        for prefix, found in (
            (RECALL, recalls),
            (CALIBRATION, [_calibration_errors(files) for files in runs["artifact_uri"]]),
        )
    ]
    return pd.concat([runs, answers.where(answers.notna(), None), *numbers], axis=1)


def _answers(files: str, class_names: list[str]) -> dict[str, bytes]:
    """What a run got right, by column, and the classes of the images, where their names are known."""
    table = _parquet(files, File.PREDICTIONS)
    logits = [column for column in table if str(column).startswith("logit_")]
    found = {f"{ANSWERS}{TEST}": pack(table[logits].to_numpy().argmax(axis=1) == table["label"].to_numpy())}
    if class_names:
        found[LABELS] = pack_labels(table["label"].to_numpy(), class_names)
    table = _parquet(files, File.SIZE_PREDICTIONS)
    for column in table:
        if Condition.parse(str(column)) is not None:
            found[f"{ANSWERS}{column}"] = pack((table[column] == table["label"]).to_numpy())
    return found


def _recalls(files: str) -> dict[str, float | None]:
    table = _table(files, File.RECALL_TABLE)
    return dict(zip(table["class"], table["recall"], strict=True))


def _calibration_errors(files: str) -> dict[str, float | None]:
    """By condition, of the model as it is."""
    rows = _table(files, File.SIZE_TABLE).to_dict("records")
    return {
        str(Condition(mode, row["height_px"])): row[column]
        for row in rows
        for mode in Mode
        if (column := f"{mode.value}_calibration_error") in row
    }


def _table(files: str, name: File) -> pd.DataFrame:
    with _fetched(files, name) as path:
        recorded = json.loads(path.read_text())
    return pd.DataFrame(recorded["data"], columns=recorded["columns"])


def _parquet(files: str, name: File) -> pd.DataFrame:
    with _fetched(files, name) as path:
        return pd.read_parquet(path)


@contextmanager
def _fetched(files: str, name: File) -> Iterator[Path]:
    """A file of a run, by the address of its files: by the run's id MLflow would read all of the run once more."""
    with tempfile.TemporaryDirectory() as directory:
        yield Path(download_artifacts(artifact_uri=f"{files}/{name}", dst_path=directory))
