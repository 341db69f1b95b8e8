"""What one run leaves in MLflow."""

from __future__ import annotations

import importlib.metadata
import json
import math
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import keras
import mlflow
import numpy as np
import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from mlflow import entities
from mlflow.data.code_dataset_source import CodeDatasetSource
from mlflow.data.meta_dataset import MetaDataset
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.types import Schema, TensorSpec
from mlflow.utils.mlflow_tags import MLFLOW_LOGGED_ARTIFACTS

from pipeline.common.condition import Condition, Mode
from pipeline.common.digest import digest_of
from pipeline.common.errors import UserError
from pipeline.common.names import (
    SWEEP_RUNS,
    TIMED,
    File,
    Metric,
    Tag,
    size_accuracy,
    size_calibration,
    size_tag,
    sweep_tag,
)
from pipeline.common.signals import deferred
from pipeline.data.batches import Data
from pipeline.data.facts import DatasetFacts
from pipeline.data.splits import ImageSplit
from pipeline.models.cost import Cost
from pipeline.models.scores import Scores
from pipeline.other_sizes.measure import MeasuredSize
from pipeline.other_sizes.plan import PlannedSize
from pipeline.tracking.identity import RunIdentity
from pipeline.tracking.queries import membership
from pipeline.tracking.resume import recorded_experiment, unfinished_run
from pipeline.tracking.server.replicate import following
from pipeline.tracking.store import tried_twice
from pipeline.tracking.views import artifact_address, shortened
from pipeline.tracking.whole_models import give_up_unfinished_models, whole_models
from pipeline.training.fit import Fit
from pipeline.training.pairing import Pairing


@contextmanager
def start_run(identity: RunIdentity, composed: str, data: Data) -> Iterator[RunRecord]:
    """Opens the MLflow run of one training and ends it as FINISHED, FAILED or KILLED; an interrupted one goes on.

    Args:
        identity: Of the run.
        composed: Its configuration as YAML.
        data: The data of the run.
    """
    experiment_id = recorded_experiment(identity)
    tags = dict(identity.tags)
    if identity.sweep is not None:
        tags |= dict([membership(identity.sweep)])
        if identity.sweep_runs is not None:
            tags[sweep_tag(identity.sweep, SWEEP_RUNS)] = str(identity.sweep_runs)
    with following(identity.tracking, identity.output_path) as follow, _ending():
        with deferred():
            interrupted = unfinished_run(identity)
            if interrupted is None:
                run = mlflow.start_run(experiment_id=experiment_id, run_name=identity.name, tags=tags)
            else:
                run = mlflow.start_run(run_id=interrupted.info.run_id, tags=tags)
                for tag in (Tag.FAILURE, Tag.PRUNED, Tag.STOPPED):
                    if tag in interrupted.data.tags:
                        mlflow.MlflowClient().delete_tag(run.info.run_id, tag)
                give_up_unfinished_models(mlflow.MlflowClient(), interrupted)
            follow(run.info.run_id)
            known = interrupted.data.params if interrupted else {}
            mlflow.log_params({name: value for name, value in identity.params.items() if name not in known})
            mlflow.log_text(composed, File.CONFIG)
            log_datasets(data)
        yield RunRecord(experiment_id, run.info.run_id, tags, interrupted)


def log_datasets(data: Data) -> None:
    """Records what the active run trains and tests on; MLflow leaves out what it has already."""
    datasets = [_mlflow_dataset(data.facts, split) for split in (data.train_split, data.test_split)]
    tried_twice(partial(mlflow.log_inputs, datasets, ["training", "testing"], [None, None]))


@contextmanager
def _ending() -> Iterator[None]:
    """Ends the run that is started in the block as FINISHED, FAILED or KILLED, with the reason."""
    try:
        yield
    except KeyboardInterrupt:
        _end("KILLED", "Ctrl-C")
        raise
    except SystemExit:
        _end("KILLED", "SIGTERM")
        raise
    except BaseException as error:
        _end("FAILED", f"{type(error).__name__}: {error}")
        raise
    _end("FINISHED")


@deferred()
def _end(status: str, failure: str | None = None) -> None:
    if mlflow.active_run() is None:
        return  # It was not started.
    if failure is None:
        mlflow.end_run(status)
        return
    with suppress(mlflow.MlflowException):  # What went wrong first is what the user has to see.
        mlflow.set_tag(Tag.FAILURE, failure[:5000])
    with suppress(mlflow.MlflowException):  # In any case: a run that is left open, MLflow ends as FINISHED.
        mlflow.end_run(status)


def _recorded_metrics(run: Any) -> set[tuple[str, int, str]]:
    """Every point of a run's metrics."""
    client = mlflow.MlflowClient()
    points = [point for key in run.data.metrics for point in client.get_metric_history(run.info.run_id, key)]
    return {_point(point.key, point.step, point.value) for point in points}


def _point(key: str, step: int, value: float) -> tuple[str, int, str]:
    """What tells a point of a metric from others: NaN is equal to itself, and whatever a clock measures."""
    return key, step, "" if key in TIMED else repr(float(value))


class RunRecord:
    """What is recorded of one run. Names of metrics, tags and files are fixed: dashboards depend on them.

    Args:
        experiment_id: MLflow's.
        run_id: MLflow's.
        tags: Of the run.
        interrupted: The run as it was left, if it goes on; what it recorded already is not recorded twice.
    """

    def __init__(self, experiment_id: str, run_id: str, tags: dict[str, str], interrupted: Any = None) -> None:
        self.experiment_id, self.run_id, self._tags = experiment_id, run_id, tags
        self._recorded = _recorded_metrics(interrupted) if interrupted else set()
        self._model_uri = ""
        models = whole_models(mlflow.MlflowClient(), interrupted) if interrupted else []
        self._recorded_models = {model.tags.get(Tag.MODEL_DIGEST): model.model_uri for model in models}

    def _metrics(self, values: Mapping[str, float], step: int = 0) -> None:
        """Records metrics at a step, but for those that are recorded already."""
        new = {key: value for key, value in values.items() if _point(key, step, value) not in self._recorded}
        if new:
            mlflow.log_metrics(new, step=step)

    @deferred()
    def log_pairing(self, pairing: Pairing) -> None:
        """Records what the run starts from, for a comparison to see which runs differ in their head alone."""
        mlflow.set_tags(
            {Tag.SPLIT: pairing.split, Tag.BATCHES: pairing.batches, Tag.INITIAL_BACKBONE: pairing.backbone}
        )

    @deferred()
    def log_epoch(self, epoch: int, metrics: dict[str, float]) -> None:
        """Records the metrics that Keras gives after epoch `epoch`, counted from 0, at step `epoch` + 1."""
        names: dict[str, str] = {
            "accuracy": Metric.TRAIN_ACCURACY,
            "loss": Metric.TRAIN_LOSS,
            "val_accuracy": Metric.VALIDATION_ACCURACY,
            "val_loss": Metric.VALIDATION_LOSS,
        }
        self._metrics({names[key]: value for key, value in metrics.items() if key in names}, step=epoch + 1)

    @deferred()
    def log_last_good_model(self, model: keras.Model) -> None:
        """Records the model of a training that went wrong later, with its best weights before, as `last_good.keras`."""
        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory) / File.LAST_GOOD_MODEL
            model.save(path)
            mlflow.log_artifact(str(path))

    @deferred()
    def log_fit(self, fit: Fit) -> None:
        """Records how fast the training was, which epoch's weights were kept (counted from 1), and an early end."""
        self._metrics({Metric.KEPT_EPOCH: fit.best_epoch + 1, Metric.IMAGES_PER_SECOND: fit.images_per_second})
        for tag, reason in ((Tag.PRUNED, fit.pruned), (Tag.STOPPED, fit.stopped)):
            if reason:
                mlflow.set_tag(tag, reason)

    @deferred()
    def log_test(self, logits: np.ndarray, labels: np.ndarray, scores: Scores, class_names: Sequence[str]) -> None:
        """Records the test metrics, the recall of each class, and logits (N, K) and labels (N,).

        Recalls are a table, `recall_by_class.json`: for metrics there may be a thousand. Predictions go to
        `predictions.parquet`.
        """
        values: dict[str, float] = {
            Metric.TEST_ACCURACY: scores.accuracy,
            Metric.TEST_LOSS: scores.cross_entropy,
            Metric.TEST_BALANCED_ACCURACY: scores.balanced_accuracy,
            Metric.TEST_CALIBRATION_ERROR: scores.calibration_error,
        }
        if scores.top_5_accuracy is not None:
            values[Metric.TEST_TOP_5_ACCURACY] = scores.top_5_accuracy
        self._metrics(values)
        recalls = [None if math.isnan(recall) else recall for recall in scores.recalls]  # JSON has no NaN.
        _log_table(pd.DataFrame({"class": class_names, "images": scores.images, "recall": recalls}), File.RECALL_TABLE)
        columns = {f"logit_{column}": logits[:, column] for column in range(logits.shape[1])}
        _log_parquet(pd.DataFrame({"example_id": np.arange(len(labels)), "label": labels, **columns}), File.PREDICTIONS)

    @deferred()
    def log_cost(self, cost: Cost) -> None:
        """Records parameter counts, operations and time."""
        self._metrics(
            {
                Metric.PARAMETERS: cost.parameters_total,
                Metric.BACKBONE_PARAMETERS: cost.parameters_backbone,
                Metric.HEAD_PARAMETERS: cost.parameters_head,
                Metric.FLOPS: cost.flops,
                Metric.MEMORY_BYTES: cost.memory_bytes,
                Metric.MS_PER_IMAGE: cost.ms_per_image,
            }
        )

    @deferred()
    def log_sizes(self, planned: Sequence[PlannedSize], measured: Sequence[MeasuredSize], labels: np.ndarray) -> None:
        """Records what happens at each image size: metrics with step = height in pixels, tags, table.

        The class predicted for each test image goes to `size_predictions.parquet`, a column for each size, mode of
        making the image, and way of running the model; `labels` (N,) are the true ones.
        """
        now = int(time.time() * 1000)
        metrics, rows = [], []
        tables = [{"path": file, "type": "table"} for file in (File.SIZE_TABLE, File.RECALL_TABLE)]
        tags = [entities.RunTag(MLFLOW_LOGGED_ARTIFACTS, json.dumps(tables))]
        for plan, result in zip(planned, measured, strict=True):
            height, width = result.size
            accuracies = {
                (way, mode): predicted.accuracy(mode) for way, predicted in result.predictions.items() for mode in Mode
            }
            calibration_errors = {mode: result.as_is.calibration_error(mode) for mode in Mode}
            values: dict[str, float] = {
                Metric.SIZE_PX: height,
                Metric.SEEN_FRACTION: result.seen_fraction,
                Metric.SEEN_PIXELS: result.seen_pixels,
                **({} if math.isnan(result.pointing) else {Metric.POINTING: result.pointing}),
                **{size_accuracy(mode, way): accuracy for (way, mode), accuracy in accuracies.items()},
                **{size_calibration(mode): error for mode, error in calibration_errors.items()},
            }
            metrics += [
                entities.Metric(key, value, now, height)
                for key, value in values.items()
                if _point(key, height, value) not in self._recorded
            ]
            tags.append(entities.RunTag(size_tag(height), result.verdict.value))
            rows.append(
                {
                    "height_px": height,
                    "width_px": width,
                    "feature_map": "×".join(map(str, result.map_size)) if result.map_size else None,
                    "verdict": result.verdict.value,
                    "seen_fraction": result.seen_fraction,
                    "seen_pixels": result.seen_pixels,
                    **{
                        f"{way}_{mode.value}_accuracy".lstrip("_"): None if math.isnan(accuracy) else accuracy
                        for (way, mode), accuracy in accuracies.items()  # JSON has no NaN.
                    },
                    **{
                        f"{mode.value}_calibration_error": None if math.isnan(error) else error
                        for mode, error in calibration_errors.items()
                    },
                    "parameters_if_built_for_it": plan.parameters,
                    "reason": plan.reason,
                }
            )
        mlflow.MlflowClient().log_batch(self.run_id, metrics=metrics, tags=tags)
        _log_table(pd.DataFrame(rows), File.SIZE_TABLE)
        _log_parquet(_size_predictions(measured, labels), File.SIZE_PREDICTIONS)

    @deferred()
    def log_page(self, description: str, figures: dict[str, Figure]) -> None:
        """Records what the run's page shows: a description in Markdown, and pictures by file name."""
        with tempfile.TemporaryDirectory() as directory:
            for name, figure in figures.items():
                figure.set_dpi(100)
                # Figure.savefig draws everything twice, once for the size of a box that is not cut.
                FigureCanvasAgg(figure).print_png(Path(directory) / name)  # type: ignore[no-untyped-call]
            mlflow.log_artifacts(directory)
        mlflow.set_tag(Tag.DESCRIPTION, shortened(description, File.SIZE_TABLE))

    def picture(self, name: str) -> str:
        """Address of one of the run's pictures, for its description."""
        return artifact_address(self.run_id, name)

    @deferred()
    def log_model(self, model: keras.Model, class_names: tuple[str, ...]) -> None:
        """Records the model: uint8 pixels in, logits out, -1 in the signature for every size that is free.

        Not twice: a run that was killed after it has the same model again.
        """
        digest = digest_of(*model.get_weights())
        self._model_uri = self._recorded_models.get(digest) or self._new_model(model, class_names, digest)
        mlflow.set_tag(Tag.MODEL_DIGEST, digest)

    def _new_model(self, model: keras.Model, class_names: tuple[str, ...], digest: str) -> str:
        def schema(dtype: str, shape: tuple[int | None, ...]) -> Schema:
            return Schema([TensorSpec(np.dtype(dtype), tuple(-1 if side is None else side for side in shape))])

        signature = ModelSignature(schema("uint8", model.input_shape), schema("float32", model.output_shape))
        # Inferring the requirements would take ten times as long.
        requirements = [f"{name}=={importlib.metadata.version(name)}" for name in ("mlflow", "tensorflow", "keras")]
        uri: str = mlflow.keras.log_model(
            model,
            name="model",
            signature=signature,
            pip_requirements=requirements,
            metadata={"class_names": list(class_names)},
            tags={Tag.MODEL_DIGEST: digest},  # With the model at once: after it, the process may be killed.
        ).model_uri
        return uri

    @deferred()
    def register(self, name: str, accuracy: float) -> None:
        """Adds the recorded model to the registry as a new version of `name`, with what tells versions apart.

        Not twice: a run that was killed after it goes on with the same model.
        """
        versions = mlflow.MlflowClient().search_model_versions(f"run_id = '{self.run_id}'")
        if (name, self._model_uri) not in [(version.name, version.source) for version in versions]:
            _register(self._model_uri, name, self._tags, accuracy)


def _register(model_uri: str, name: str, tags: Mapping[str, str], accuracy: float) -> None:
    told = {str(key): tags[key] for key in (Tag.HEAD, Tag.BACKBONE, Tag.DATASET, Tag.RUN_KEY)}
    mlflow.register_model(model_uri, name, tags={**told, "test_accuracy": f"{accuracy:.4f}"})


def register_earlier(name: str, run_id: str) -> None:
    """Adds the model of a run that had finished before to the registry, unless `name` has a version of it.

    Raises:
        UserError: There is no model to add.
    """
    client = mlflow.MlflowClient()
    try:
        run = client.get_run(run_id)
        models = whole_models(client, run)
    except MlflowException:  # It is another machine's, and on the server alone.
        models = []
    if not models:
        raise UserError(
            f"tracking.register_as={name}: run {run_id} had finished before, and its model was not recorded here. Add "
            "rerun=true to train it again."
        )
    versions = client.search_model_versions(f"name = '{name}'")
    if all(version.tags.get(Tag.RUN_KEY) != run.data.tags[Tag.RUN_KEY] for version in versions):
        _register(f"models:/{models[-1].model_id}", name, run.data.tags, run.data.metrics[Metric.TEST_ACCURACY])


def _size_predictions(measured: Sequence[MeasuredSize], labels: np.ndarray) -> pd.DataFrame:
    columns = {
        str(Condition(mode, result.size[0], way)): classes
        for result in measured
        for way, predictions in result.predictions.items()
        for mode, classes in predictions.classes.items()
    }
    probed = labels[: len(next(iter(columns.values())))]
    return pd.DataFrame({"example_id": np.arange(len(probed)), "label": probed, **columns})


def _log_table(table: pd.DataFrame, name: File) -> None:
    """As mlflow.log_table does, which would append to the table of a run that goes on."""
    mlflow.log_text(table.astype(object).to_json(orient="split", index=False), name)


def _log_parquet(table: pd.DataFrame, name: File) -> None:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / name
        table.to_parquet(path, index=False)
        mlflow.log_artifact(str(path))


def _mlflow_dataset(facts: DatasetFacts, split: ImageSplit) -> Any:
    *size, channels = facts.image_shape
    shape = (-1, *((-1, -1) if facts.natural else size), channels)
    tags = {"tfds_name": facts.name, "tfds_version": facts.version, "split": split.name, "examples": len(split)}
    return MetaDataset(
        CodeDatasetSource(tags),
        name=f"{facts.name} {facts.version} {split.name}",
        digest=split.digest,
        schema=Schema([TensorSpec(np.dtype("uint8"), shape, "image")]),
    )
