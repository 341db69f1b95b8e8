"""What a run leaves behind, read back from the MLflow store."""

from __future__ import annotations

import json
import math
import platform
from pathlib import Path
from typing import Any

import keras
import mlflow
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
import yaml
from mlflow import MlflowClient
from mlflow.entities import Run
from sklearn.metrics import balanced_accuracy_score, top_k_accuracy_score

from pipeline.data import source
from pipeline.data.settings import Dataset
from pipeline.models.scores import score
from pipeline.tracking.queries import sweeps, with_answers
from pipeline.tracking.record import RunRecord, log_datasets
from pipeline.tracking.store import experiment_id
from pipeline.training.fit import Fit
from tests.program.forked import run_forked

BACKBONE = 65_568
"""Parameters of small_fcn on one channel; tests/models/test_backbones.py has the arithmetic."""


@pytest.fixture(scope="module")
def client(tiny_study: Path) -> MlflowClient:
    uri = f"sqlite:///{tiny_study / 'outputs' / 'mlflow.db'}"
    mlflow.set_tracking_uri(uri)
    return MlflowClient(uri)


@pytest.fixture(scope="module")
def runs(client: MlflowClient) -> dict[str, Run]:
    """The three runs of the study by head."""
    experiment = client.get_experiment_by_name("digits")
    assert experiment is not None
    found = client.search_runs([experiment.experiment_id], "tags.study = 'heads'")
    assert len(found) == 3
    return {run.data.params["head"]: run for run in found}


def _history(client: MlflowClient, run: Run, key: str) -> dict[int, float]:
    return {metric.step: metric.value for metric in client.get_metric_history(run.info.run_id, key)}


def _artifact(client: MlflowClient, run: Run, name: str) -> Path:
    return Path(client.download_artifacts(run.info.run_id, name))


def test_runs_are_flat_finished_and_tagged(runs: dict[str, Run]) -> None:
    assert set(runs) == {"flatten_dense", "average_pool", "global_average_pool"}
    for head, run in runs.items():
        assert run.info.status == "FINISHED"
        assert "mlflow.parentRunId" not in run.data.tags
        assert (run.data.tags["study"], run.data.tags["head"], run.data.tags["dataset"]) == ("heads", head, "digits")
        assert len(run.data.tags["run_key"]) == 32
    (sweep,) = {name for run in runs.values() for name in sweeps(run)}
    assert {run.data.tags[f"sweep_runs.{sweep}"] for run in runs.values()} == {"3"}  # One seed of three heads.
    assert len({run.data.tags["run_key"] for run in runs.values()}) == 3
    assert len({run.data.tags["mlflow.runColor"] for run in runs.values()}) == 3
    typed = {
        value for run in runs.values() for name, value in run.data.tags.items() if name.startswith("sweep_command")
    }
    assert typed == {"python -m pipeline.train study=heads seed=0 training.epochs=2"}
    (made,) = {run.data.tags["made_with"] for run in runs.values()}
    assert made.startswith(
        f"Python {platform.python_version()}, tensorflow {tf.__version__}, keras {keras.__version__}"
    )


def test_every_leaf_of_the_configuration_is_a_param(client: MlflowClient, runs: dict[str, Run]) -> None:
    run = runs["average_pool"]
    params = run.data.params
    expected = {
        "head.name": "average_pool",
        "head.pool_size": "full",
        "head.strides": "None",
        "training.epochs": "2",
        "training.optimizer": "adam",
        "dataset.version": "1.0.0",
        "backbone.filters": "[32, 32, 64, 64]",
        "size_probe.sizes": "None",
        "tracking.log_model": "True",
        "seed": "0",
        "study": "heads",
        "dataset": "digits",
        "head": "average_pool",
        "image_size": "8×8",
        "receptive_field": "13×13",
        "total_stride": "4×4",
        "train_examples": "1293",
        "validation_examples": "144",
        "test_examples": "360",
    }
    assert {key: params.get(key) for key in expected} == expected
    config = yaml.safe_load(_artifact(client, run, "config.yaml").read_text())
    assert (config["head"]["name"], config["training"]["epochs"], config["seed"]) == ("average_pool", 2, 0)


@pytest.mark.parametrize(
    ("head", "in_head"),
    # 8×8 px and strides 2 and 2 make a 2×2 map of 64 channels.
    [("flatten_dense", 2 * 2 * 64 * 10 + 10), ("average_pool", 64 * 10 + 10), ("global_average_pool", 64 * 10 + 10)],
)
def test_parameter_counts_equal_the_arithmetic(runs: dict[str, Run], head: str, in_head: int) -> None:
    metrics = runs[head].data.metrics
    assert metrics["params/head"] == in_head
    assert metrics["params/backbone"] == BACKBONE
    assert metrics["params/total"] == BACKBONE + in_head


def test_flops_are_those_of_the_convolutions_and_the_dense_layer(runs: dict[str, Run]) -> None:
    # 2 · output cells · 9 · channels in · channels out, for maps of 8×8, 4×4, 4×4, 2×2, and the Dense layer.
    convolutions = 2 * 9 * (64 * 1 * 32 + 16 * 32 * 32 + 16 * 32 * 64 + 4 * 64 * 64)
    for head, dense in (("flatten_dense", 2 * 256 * 10), ("global_average_pool", 2 * 64 * 10)):
        flops = runs[head].data.metrics["cost/flops"]
        # Scaling, batch norm, ReLU and pooling come on top: a few operations a cell.
        assert convolutions + dense < flops < 1.02 * (convolutions + dense)
        assert runs[head].data.metrics["cost/ms_per_image"] > 0


def test_runs_of_one_seed_started_from_the_same(runs: dict[str, Run]) -> None:
    for fact in ("split", "batches", "backbone"):
        (digest,) = {run.data.tags[f"pairing.{fact}"] for run in runs.values()}
        assert len(digest) == 32


def test_predictions_by_size_give_the_recorded_accuracies(client: MlflowClient, runs: dict[str, Run]) -> None:
    for run in runs.values():
        table = pd.read_parquet(_artifact(client, run, "size_predictions.parquet"))
        assert len(table) == 360
        for mode in ("resize", "canvas"):
            for px, recorded in _history(client, run, f"size/{mode}/accuracy").items():
                column = f"{mode}_{px:03d}px"
                assert (column in table) == (not math.isnan(recorded))
                if column in table:
                    assert (table[column] == table["label"]).mean() == pytest.approx(recorded, abs=1e-12)


def test_learning_curves_have_epochs_as_steps(client: MlflowClient, runs: dict[str, Run]) -> None:
    for run in runs.values():
        for key in ("train/accuracy", "train/loss", "val/accuracy", "val/loss"):
            assert set(_history(client, run, key)) == {1, 2}
        kept = int(run.data.metrics["train/kept_epoch"])
        validation = _history(client, run, "val/accuracy")
        assert validation[kept] == max(validation.values())
        assert run.data.metrics["train/images_per_second"] > 0


VERDICTS = {
    # 8 px and strides 2 and 2: maps of 1, 2, 2, 2, 3, 3, 4, 4 cells a side
    "flatten_dense": ["refuses", "native", "native", "native", "refuses", "refuses", "refuses", "refuses"],
    "average_pool": ["refuses", "native", "native", "native", "crops", "crops", "refuses", "refuses"],
    "global_average_pool": ["adapts", "native", "native", "native", "adapts", "adapts", "adapts", "adapts"],
}


@pytest.mark.parametrize("head", VERDICTS)
def test_size_behaviour_has_pixels_as_steps_and_nan_where_refused(
    client: MlflowClient, runs: dict[str, Run], head: str
) -> None:
    run, sizes = runs[head], [4, 6, 7, 8, 10, 12, 14, 16]
    assert _history(client, run, "size/px") == {px: px for px in sizes}
    refused = [verdict == "refuses" for verdict in VERDICTS[head]]
    for mode in ("resize", "canvas"):
        accuracy = _history(client, run, f"size/{mode}/accuracy")
        assert [math.isnan(accuracy[px]) for px in sizes] == refused
        assert accuracy[8] == run.data.metrics["test/accuracy"]
        calibration = _history(client, run, f"size/{mode}/calibration_error")
        assert [math.isnan(calibration[px]) for px in sizes] == refused
        assert calibration[8] == pytest.approx(run.data.metrics["test/calibration_error"])
    seen = {"refuses": 0.0, "crops": 4 / 9, "native": 1.0, "adapts": 1.0}  # window 2×2, map 3×3
    fractions = _history(client, run, "size/seen_fraction")
    assert [fractions[px] for px in sizes] == pytest.approx([seen[verdict] for verdict in VERDICTS[head]])
    assert [run.data.tags[f"size.{px:03d}px"] for px in sizes] == VERDICTS[head]
    # Of 2 cells the last pixel is 4 + 9 = 13, or 11 where the second layer has an odd number of cells, as of 10 px.
    pixels = _history(client, run, "size/seen_pixels")
    assert [pixels[px] for px in sizes] == [float(verdict != "refuses") for verdict in VERDICTS[head]]
    pointing = _history(client, run, "size/canvas/pointing")
    assert list(pointing) == [px for px, is_refused in zip(sizes, refused, strict=True) if px > 8 and not is_refused]
    assert all(0 <= share <= 1 for share in pointing.values())

    table = json.loads(_artifact(client, run, "size_behavior.json").read_text())
    rows = [dict(zip(table["columns"], row, strict=True)) for row in table["data"]]
    assert [(row["height_px"], row["verdict"]) for row in rows] == list(zip(sizes, VERDICTS[head], strict=True))
    for name, values in (("seen_fraction", fractions), ("seen_pixels", pixels)):
        assert [row[name] for row in rows] == pytest.approx([values[px] for px in sizes])
    assert all((row["resize_accuracy"] is None) == (row["verdict"] == "refuses") for row in rows)
    assert _artifact(client, run, "size_behavior.png").read_bytes().startswith(b"\x89PNG")


def test_pictures_of_what_is_ignored_are_of_cropping_heads_alone(client: MlflowClient, runs: dict[str, Run]) -> None:
    for head, run in runs.items():
        pictures = {"size_behavior.png", "confusion_matrix.png", "misclassified.png", "class_activation.png"}
        if head == "average_pool":
            pictures.add("ignored.png")
        assert {file.path for file in client.list_artifacts(run.info.run_id) if file.path.endswith(".png")} == pictures


def test_predictions_give_back_the_test_accuracy(client: MlflowClient, runs: dict[str, Run]) -> None:
    for run in runs.values():
        table = pd.read_parquet(_artifact(client, run, "predictions.parquet"))
        assert list(table.columns) == ["example_id", "label", *(f"logit_{label}" for label in range(10))]
        assert table["example_id"].tolist() == list(range(360))
        logits = table.filter(like="logit_").to_numpy()
        assert np.mean(logits.argmax(axis=1) == table["label"]) == run.data.metrics["test/accuracy"]


def test_scores_beside_accuracy_are_those_of_the_predictions(client: MlflowClient, runs: dict[str, Run]) -> None:
    for run in runs.values():
        table = pd.read_parquet(_artifact(client, run, "predictions.parquet"))
        labels, logits = table["label"].to_numpy(), table.filter(like="logit_").to_numpy()
        metrics = run.data.metrics
        predicted = logits.argmax(axis=1)
        assert metrics["test/balanced_accuracy"] == pytest.approx(balanced_accuracy_score(labels, predicted))
        assert metrics["test/top_5_accuracy"] == pytest.approx(top_k_accuracy_score(labels, logits, k=5))
        assert metrics["test/top_5_accuracy"] > metrics["test/accuracy"]
        assert 0 < metrics["test/calibration_error"] < 1
        recorded = json.loads(_artifact(client, run, "recall_by_class.json").read_text())
        assert recorded["columns"] == ["class", "images", "recall"]
        # The test split of digits: 360 images.
        assert [row[:2] for row in recorded["data"]] == [[str(digit), np.sum(labels == digit)] for digit in range(10)]
        recalls = [np.mean(predicted[labels == digit] == digit) for digit in range(10)]
        assert [row[2] for row in recorded["data"]] == pytest.approx(recalls)
        shown = [table["path"] for table in json.loads(run.data.tags["mlflow.loggedArtifacts"])]
        assert shown == ["size_behavior.json", "recall_by_class.json"]


def test_a_comparison_has_the_recalls_and_does_without_those_of_earlier_runs(
    client: MlflowClient, runs: dict[str, Run]
) -> None:
    table = mlflow.search_runs([next(iter(runs.values())).info.experiment_id], "tags.study = 'heads'")
    read = with_answers(table)
    names = [f"recall.{digit}" for digit in range(10)]
    assert [column for column in read if str(column).startswith("recall.")] == names
    for (_, row), run_id in zip(read.iterrows(), table["run_id"], strict=True):
        (run,) = [run for run in runs.values() if run.info.run_id == run_id]
        recorded = json.loads(_artifact(client, run, "recall_by_class.json").read_text())
        assert row[names].tolist() == [recall for *_, recall in recorded["data"]]
    earlier = with_answers(table.drop(columns="metrics.test/balanced_accuracy"))
    assert not [column for column in earlier if str(column).startswith("recall.")]
    assert earlier["answers.test"].tolist() == read["answers.test"].tolist()


def test_datasets_carry_version_split_and_digest(runs: dict[str, Run]) -> None:
    first, *others = ([entry.dataset for entry in run.inputs.dataset_inputs] for run in runs.values())
    assert {dataset.name for dataset in first} == {"digits 1.0.0 train", "digits 1.0.0 test"}
    assert {len(dataset.digest) for dataset in first} == {32}
    for other in others:
        assert {dataset.digest for dataset in other} == {dataset.digest for dataset in first}


def test_models_take_raw_pixels_at_the_sizes_of_their_signature(client: MlflowClient, runs: dict[str, Run]) -> None:
    def load(head: str) -> mlflow.pyfunc.PyFuncModel:
        (output,) = runs[head].outputs.model_outputs
        return mlflow.pyfunc.load_model(f"models:/{output.model_id}")

    free, fixed = load("global_average_pool"), load("flatten_dense")
    assert free.metadata.signature.inputs.inputs[0].shape == (-1, -1, -1, 1)
    assert fixed.metadata.signature.inputs.inputs[0].shape == (-1, 8, 8, 1)
    for side in (8, 13):
        assert np.asarray(free.predict(np.zeros((3, side, side, 1), np.uint8))).shape == (3, 10)
    assert np.asarray(fixed.predict(np.zeros((3, 8, 8, 1), np.uint8))).shape == (3, 10)
    with pytest.raises(mlflow.MlflowException, match="Shape of input"):
        fixed.predict(np.zeros((3, 13, 13, 1), np.uint8))


def test_a_served_model_predicts_what_was_recorded(client: MlflowClient, runs: dict[str, Run], tmp_path: Path) -> None:
    from pipeline.data.settings import Dataset

    run = runs["global_average_pool"]
    (output,) = run.outputs.model_outputs
    model = mlflow.pyfunc.load_model(f"models:/{output.model_id}")
    images, _ = next(source.load(Dataset(name="digits"), 0, tmp_path).test(360).as_numpy_iterator())
    recorded = pd.read_parquet(_artifact(client, run, "predictions.parquet")).filter(like="logit_").to_numpy()
    assert np.abs(np.asarray(model.predict(images)) - recorded).max() < 1e-4


@pytest.mark.program
@pytest.mark.slow
def test_a_failing_run_is_failed_and_says_why(tmp_path: Path) -> None:
    result = run_forked(
        "pipeline.train", "training.optimizer=sgd", "training.learning_rate=3e38", "training.epochs=1", cwd=tmp_path
    )
    assert result.returncode == 2
    assert "no longer a finite number" in result.stderr
    (run,) = MlflowClient(f"sqlite:///{tmp_path / 'outputs' / 'mlflow.db'}").search_runs(["1"])
    assert run.info.status == "FAILED"
    assert "no longer a finite number" in run.data.tags["failure"]


@pytest.mark.long
def test_the_last_good_model_can_be_loaded(store: Path) -> None:
    experiment = experiment_id(MlflowClient(), "digits", (store / "artifacts").as_uri())
    model = keras.Sequential([keras.Input((None, None, 1)), keras.layers.GlobalAveragePooling2D()])
    with mlflow.start_run(experiment_id=experiment) as run:
        RunRecord(experiment, run.info.run_id, {}).log_last_good_model(model)
    path = MlflowClient().download_artifacts(run.info.run_id, "last_good.keras")
    loaded = keras.saving.load_model(path, safe_mode=True)
    assert loaded(np.full((1, 2, 2, 1), 7.0)).numpy().tolist() == [[7.0]]  # 28 / 4, which no rounding touches


@pytest.mark.long
def test_a_run_that_was_killed_after_its_model_was_recorded_or_registered_does_neither_twice(store: Path) -> None:
    experiment = experiment_id(MlflowClient(), "digits", (store / "artifacts").as_uri())
    model = keras.Sequential([keras.Input((None, None, 1)), keras.layers.GlobalAveragePooling2D()])
    tags = {"head": "h", "backbone": "b", "dataset": "d", "run_key": "k"}
    client = MlflowClient()
    with mlflow.start_run(experiment_id=experiment) as run:
        first = RunRecord(experiment, run.info.run_id, tags)
        first.log_model(model, ("one",))
        first.register("kept", 0.5)
        client.delete_tag(run.info.run_id, "model_digest")  # It did not come to say so.
        again = RunRecord(experiment, run.info.run_id, tags, interrupted=client.get_run(run.info.run_id))
        again.log_model(model, ("one",))
        left = client.get_run(run.info.run_id)
        assert (len(left.outputs.model_outputs), len(left.data.tags["model_digest"])) == (1, 32)
        again.register("kept", 0.5)
        assert len(client.search_model_versions("name = 'kept'")) == 1
        again.register("other", 0.5)
    assert sorted(version.name for version in client.search_model_versions()) == ["kept", "other"]


@pytest.mark.long
def test_a_run_that_was_killed_between_its_datasets_gets_the_other_one(store: Path) -> None:
    data = source.load(Dataset(name="digits", version="1.0.0"), 0, store / "cache")
    client = MlflowClient()
    with mlflow.start_run() as run:
        log_datasets(data)
        (first, _) = client.get_run(run.info.run_id).inputs.dataset_inputs
    with mlflow.start_run() as run:
        client.log_inputs(run.info.run_id, [first])
        for _ in range(2):
            log_datasets(data)
    used = client.get_run(run.info.run_id).inputs.dataset_inputs
    assert sorted((one.dataset.name, one.tags[0].value) for one in used) == [
        ("digits 1.0.0 test", "testing"),
        ("digits 1.0.0 train", "training"),
    ]


@pytest.mark.long
def test_a_training_that_ended_early_says_by_what(store: Path) -> None:
    experiment = experiment_id(MlflowClient(), "digits", (store / "artifacts").as_uri())
    cases: tuple[dict[str, Any], ...] = ({}, {"pruned": "after epoch 1: …"}, {"stopped": "after epoch 4: …"})
    for ended in cases:
        fit = Fit(0, 0.5, 100.0, **ended)
        with mlflow.start_run(experiment_id=experiment) as run:
            RunRecord(experiment, run.info.run_id, {}).log_fit(fit)
        tags = MlflowClient().get_run(run.info.run_id).data.tags
        assert {name: tags[name] for name in ("pruned", "stopped") if name in tags} == ended


@pytest.mark.long
def test_a_class_without_a_test_image_has_no_recall(store: Path) -> None:
    experiment = experiment_id(MlflowClient(), "digits", (store / "artifacts").as_uri())
    logits, labels = np.array([[1.0, 0, 0], [1, 0, 0]], np.float32), np.array([0, 1])
    with mlflow.start_run(experiment_id=experiment) as run:
        RunRecord(experiment, run.info.run_id, {}).log_test(logits, labels, score(logits, labels), ("a", "b", "c"))
    path = Path(MlflowClient().download_artifacts(run.info.run_id, "recall_by_class.json"))
    assert json.loads(path.read_text())["data"] == [["a", 1, 1.0], ["b", 1, 0.0], ["c", 0, None]]
    recorded = MlflowClient().get_run(run.info.run_id).data.metrics
    assert recorded["test/balanced_accuracy"] == 0.5  # (1 + 0) / 2, over the two classes with images.
    assert "test/top_5_accuracy" not in recorded


@pytest.mark.long
def test_a_description_that_is_too_long_says_where_the_rest_is(store: Path) -> None:
    """MLflow would cut it after 8,000 characters: 421 lines of 19 leave no room for the note, so 420 stay."""
    experiment = experiment_id(MlflowClient(), "digits", (store / "artifacts").as_uri())
    with mlflow.start_run(experiment_id=experiment) as run:
        RunRecord(experiment, run.info.run_id, {}).log_page("a row of the table\n" * 500, {})
    said = MlflowClient().get_run(run.info.run_id).data.tags["mlflow.note.content"]
    rest = "\n\nThe rest is in size_behavior.json."
    assert said == ("a row of the table\n" * ((8000 - len(rest)) // 19)).rstrip("\n") + rest
    assert len(said) <= 8000


@pytest.mark.program
@pytest.mark.slow
def test_the_model_of_a_finished_run_is_registered_when_asked_for(tmp_path: Path) -> None:
    arguments = ("pipeline.train", "training.epochs=1", "size_probe.sizes=[8]", "head=global_average_pool")
    client = MlflowClient(f"sqlite:///{tmp_path / 'outputs' / 'mlflow.db'}")
    first, *later = [
        run_forked(*arguments, *more, cwd=tmp_path)
        for more in ((), ("tracking.register_as=gap",), ("tracking.register_as=gap",))
    ]
    assert [result.returncode for result in (first, *later)] == [0, 0, 0]
    assert all("done before" in result.stdout for result in later)
    (version,) = client.search_model_versions("name = 'gap'")
    (run,) = client.search_runs(["1"])
    assert version.tags["test_accuracy"] == f"{run.data.metrics['test/accuracy']:.4f}"
    assert version.tags["run_key"] == run.data.tags["run_key"]

    without = run_forked(*arguments, "seed=1", "tracking.log_model=false", cwd=tmp_path)
    assert without.returncode == 0, without.stderr
    asked = run_forked(*arguments, "seed=1", "tracking.register_as=gap", cwd=tmp_path)
    assert asked.returncode == 2
    assert "its model was not recorded here. Add rerun=true to train it again." in asked.stderr
    assert "Traceback" not in asked.stderr
