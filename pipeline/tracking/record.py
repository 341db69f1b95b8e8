"""What one run leaves in MLflow."""

from __future__ import annotations

import hashlib
import json
import math
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.errors import UserError
from pipeline.interrupts import held
from pipeline.pairing import digest_of
from pipeline.tracking import store, views
from pipeline.tracking.delivery import following
from pipeline.tracking.resume import FAILURE_TAG, experiment, unfinished_run
from pipeline.tracking.study import INDIFFERENT, PRUNED_TAG, condition, size_tag, sweep_tag

if TYPE_CHECKING:
    import keras
    import pandas as pd
    from matplotlib.figure import Figure

    from pipeline.config import Config
    from pipeline.cost import Cost
    from pipeline.data import Data, DatasetFacts, ImageSplit
    from pipeline.pairing import Pairing
    from pipeline.size_probe import MeasuredSize, PlannedSize
    from pipeline.training import Fit

TABLE_FILE = "size_behavior.json"
MODEL_TAG = "model_digest"
"""Of a run: digest of the weights of its recorded model."""


@contextmanager
def start_run(config: Config, composed: str, data: Data, key: str, sweep: str | None) -> Iterator[RunRecord]:
    """Opens the MLflow run of one training and ends it as FINISHED, FAILED or KILLED; an interrupted one goes on.

    Args:
        config: The typed configuration.
        composed: The same as YAML.
        data: The data of the run.
        key: See `run_key`.
        sweep: What all runs of one call of a study have in common, to tell them from those of another call.
    """
    import mlflow

    facts = data.facts
    experiment_id = experiment(config, facts)
    tags = {
        "head": config.head.name,
        "dataset": facts.name,
        "backbone": config.backbone.name,
        "run_key": key,
        "mlflow.runColor": config.head.color,
    }
    if config.study is not None:
        tags["study"] = config.study
    if sweep is not None:
        tags |= dict([sweep_tag(sweep)])
    with following(config.tracking, config.output_path) as follow, _ending():
        with held():
            interrupted = unfinished_run(config, facts, key)
            if interrupted is None:
                run_name = f"{config.head.name} seed {config.seed}"
                run = mlflow.start_run(experiment_id=experiment_id, run_name=run_name, tags=tags)
            else:
                run = mlflow.start_run(run_id=interrupted.info.run_id, tags=tags)
                for tag in (FAILURE_TAG, PRUNED_TAG):
                    if tag in interrupted.data.tags:
                        mlflow.MlflowClient().delete_tag(run.info.run_id, tag)
            follow(run.info.run_id)
            known = interrupted.data.params if interrupted else {}
            mlflow.log_params({name: value for name, value in _params(config, data).items() if name not in known})
            mlflow.log_text(composed, "config.yaml")
            if interrupted is None or not interrupted.inputs.dataset_inputs:
                for split, context in ((data.train_split, "training"), (data.test_split, "testing")):
                    store.log_datasets(partial(mlflow.log_input, _mlflow_dataset(facts, split), context))
        yield RunRecord(experiment_id, run.info.run_id, tags, interrupted)


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


@held()
def _end(status: str, failure: str | None = None) -> None:
    import mlflow

    if mlflow.active_run() is None:
        return  # It was not started.
    if failure is None:
        mlflow.end_run(status)
        return
    with suppress(mlflow.MlflowException):  # What went wrong first is what the user has to see.
        mlflow.set_tag(FAILURE_TAG, failure[:5000])
    with suppress(mlflow.MlflowException):  # In any case: a run that is left open, MLflow ends as FINISHED.
        mlflow.end_run(status)


def _recorded_metrics(run: Any) -> set[tuple[str, int, str]]:
    """Name, step and value of every point of a run's metrics; NaN is equal to itself."""
    import mlflow

    client = mlflow.MlflowClient()
    points = [point for key in run.data.metrics for point in client.get_metric_history(run.info.run_id, key)]
    return {(point.key, point.step, repr(float(point.value))) for point in points}


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
        if interrupted and MODEL_TAG in interrupted.data.tags:
            self._model_uri = f"models:/{interrupted.outputs.model_outputs[-1].model_id}"
            self._tags = {**tags, MODEL_TAG: interrupted.data.tags[MODEL_TAG]}

    def _metrics(self, values: Mapping[str, float], step: int = 0) -> None:
        """Records metrics at a step, but for those that are recorded with the same value."""
        import mlflow

        new = {key: value for key, value in values.items() if (key, step, repr(float(value))) not in self._recorded}
        if new:
            mlflow.log_metrics(new, step=step)

    @held()
    def pairing(self, pairing: Pairing) -> None:
        """Records what the run starts from, for a comparison to see which runs differ in their head alone."""
        import mlflow

        mlflow.set_tags({f"pairing.{name}": digest for name, digest in asdict(pairing).items()})

    @held()
    def epoch(self, epoch: int, metrics: dict[str, float]) -> None:
        """Records the metrics that Keras gives after epoch `epoch`, counted from 0, at step `epoch` + 1."""

        names = {
            "accuracy": "train/accuracy",
            "loss": "train/loss",
            "val_accuracy": "val/accuracy",
            "val_loss": "val/loss",
        }
        self._metrics({names[key]: value for key, value in metrics.items() if key in names}, step=epoch + 1)

    @held()
    def last_good_model(self, model: keras.Model) -> None:
        """Records the model of a training that went wrong later, with its best weights before, as `last_good.keras`."""
        import mlflow

        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory) / "last_good.keras"
            model.save(path)
            mlflow.log_artifact(str(path))

    @held()
    def fit(self, fit: Fit) -> None:
        """Records how fast the training was, which epoch's weights were kept (counted from 1), and an early end."""
        import mlflow

        values: dict[str, float] = {"train/kept_epoch": fit.best_epoch + 1}
        if not math.isnan(fit.images_per_second):
            values["train/images_per_second"] = fit.images_per_second
        self._metrics(values)
        if fit.pruned:
            mlflow.set_tag(PRUNED_TAG, fit.pruned)

    @held()
    def test(self, logits: np.ndarray, labels: np.ndarray, accuracy: float, loss: float) -> None:
        """Records the test metrics, and the logits (N, K) and labels (N,) as `predictions.parquet`."""
        import pandas as pd

        self._metrics({"test/accuracy": accuracy, "test/loss": loss})
        columns = {f"logit_{column}": logits[:, column] for column in range(logits.shape[1])}
        _log_parquet(pd.DataFrame({"example_id": np.arange(len(labels)), "label": labels, **columns}), "predictions")

    @held()
    def cost(self, cost: Cost) -> None:
        """Records parameter counts, operations and time."""
        self._metrics(
            {
                "params/total": cost.parameters_total,
                "params/backbone": cost.parameters_backbone,
                "params/head": cost.parameters_head,
                "cost/flops": cost.flops,
                "cost/memory_bytes": cost.memory_bytes,
                "cost/ms_per_image": cost.ms_per_image,
            }
        )

    @held()
    def sizes(self, planned: list[PlannedSize], measured: list[MeasuredSize], labels: np.ndarray) -> None:
        """Records what happens at each image size: metrics with step = height in pixels, tags, table.

        The class predicted for each test image goes to `size_predictions.parquet`, a column for each size, mode of
        making the image, and way of running the model; `labels` (N,) are the true ones.
        """
        import mlflow
        import pandas as pd
        from mlflow.entities import Metric, RunTag
        from mlflow.utils.mlflow_tags import MLFLOW_LOGGED_ARTIFACTS

        now = int(time.time() * 1000)
        metrics, rows = [], []
        tags = [RunTag(MLFLOW_LOGGED_ARTIFACTS, json.dumps([{"path": TABLE_FILE, "type": "table"}]))]
        for plan, result in zip(planned, measured, strict=True):
            height, width = result.size
            values = {
                "size/px": height,
                "size/resize/accuracy": result.answers.resize_accuracy,
                "size/canvas/accuracy": result.answers.canvas_accuracy,
                "size/seen_fraction": result.seen_fraction,
            }
            for way, answers in result.ways.items():
                values[views.way_metric(way, "resize")] = answers.resize_accuracy
                values[views.way_metric(way, "canvas")] = answers.canvas_accuracy
            metrics += [
                Metric(key, value, now, height)
                for key, value in values.items()
                if (key, height, repr(float(value))) not in self._recorded
            ]
            tags.append(RunTag(size_tag(height), result.verdict.value))
            rows.append(
                {
                    "height_px": height,
                    "width_px": width,
                    "feature_map": "×".join(map(str, result.map_size)) if result.map_size else None,
                    "verdict": result.verdict.value,
                    "seen_fraction": result.seen_fraction,
                    "resize_accuracy": _json_number(result.answers.resize_accuracy),
                    "canvas_accuracy": _json_number(result.answers.canvas_accuracy),
                    **{
                        f"{way}_{mode}_accuracy": _json_number(accuracy)
                        for way, answers in result.ways.items()
                        for mode, accuracy in (
                            ("resize", answers.resize_accuracy),
                            ("canvas", answers.canvas_accuracy),
                        )
                    },
                    "parameters_if_built_for_it": plan.parameters,
                    "reason": plan.reason,
                }
            )
        mlflow.MlflowClient().log_batch(self.run_id, metrics=metrics, tags=tags)
        # As mlflow.log_table does, which would append to the table of a run that goes on.
        table = pd.DataFrame(rows).astype(object).to_json(orient="split", index=False)
        mlflow.log_text(table, TABLE_FILE)
        _log_parquet(_size_predictions(measured, labels), "size_predictions")

    @held()
    def page(self, description: str, figures: dict[str, Figure]) -> None:
        """Records what the run's page shows: a description in Markdown, and pictures by file name."""
        import mlflow

        for name, figure in figures.items():
            mlflow.log_figure(figure, name, save_kwargs={"dpi": 100})
        mlflow.set_tag(views.DESCRIPTION_TAG, views.shortened(description, TABLE_FILE))

    def picture(self, name: str) -> str:
        """Address of one of the run's pictures, for its description."""
        return views.artifact_address(self.run_id, name)

    @held()
    def model(self, model: keras.Model, class_names: tuple[str, ...]) -> None:
        """Records the model: uint8 pixels in, logits out, -1 in the signature for every size that is free."""
        digest = digest_of(*model.get_weights())
        if self._tags.get(MODEL_TAG) == digest:
            return  # Before an interruption.
        import importlib.metadata

        import mlflow
        from mlflow.models import ModelSignature
        from mlflow.types import Schema, TensorSpec

        def schema(dtype: str, shape: tuple[int | None, ...]) -> Schema:
            return Schema([TensorSpec(np.dtype(dtype), tuple(-1 if side is None else side for side in shape))])

        signature = ModelSignature(schema("uint8", model.input_shape), schema("float32", model.output_shape))
        # Inferring the requirements would take ten times as long.
        requirements = [f"{name}=={importlib.metadata.version(name)}" for name in ("mlflow", "tensorflow", "keras")]
        self._model_uri = mlflow.keras.log_model(
            model,
            name="model",
            signature=signature,
            pip_requirements=requirements,
            metadata={"class_names": list(class_names)},
        ).model_uri
        mlflow.set_tag(MODEL_TAG, digest)

    @held()
    def register(self, name: str, accuracy: float) -> None:
        """Adds the recorded model to the registry as a new version of `name`, with what tells versions apart."""
        _register(self._model_uri, name, self._tags, accuracy)


def _register(model_uri: str, name: str, tags: Mapping[str, str], accuracy: float) -> None:
    import mlflow

    told = {key: tags[key] for key in ("head", "backbone", "dataset", "run_key")}
    mlflow.register_model(model_uri, name, tags={**told, "test_accuracy": f"{accuracy:.4f}"})


def register_earlier(name: str, run_id: str) -> None:
    """Adds the model of a run that had finished before to the registry, unless `name` has a version of it.

    Raises:
        UserError: There is no model to add.
    """
    import mlflow
    from mlflow.exceptions import MlflowException

    client = mlflow.MlflowClient()
    try:
        run = client.get_run(run_id)
        models = run.outputs.model_outputs if run.outputs else []
    except MlflowException:  # It is another machine's, and on the server alone.
        models = []
    if not models:
        raise UserError(
            f"tracking.register_as={name}: run {run_id} had finished before, and its model was not recorded here. Add "
            "rerun=true to train it again."
        )
    versions = client.search_model_versions(f"name = '{name}'")
    if all(version.tags.get("run_key") != run.data.tags["run_key"] for version in versions):
        _register(f"models:/{models[-1].model_id}", name, run.data.tags, run.data.metrics["test/accuracy"])


def run_key(config: Config, data: Data) -> str:
    """Digest of what determines a run's result: configuration, code, data, and the libraries that compute."""
    import importlib.metadata

    import pipeline

    indifferent = (*INDIFFERENT, "arm", "study")
    settings = {key: value for key, value in _leaves(config) if not key.startswith(indifferent)}
    weights = config.backbone.file
    code = hashlib.sha256()
    for path in sorted(Path(pipeline.__file__).parent.rglob("*.py")):
        code.update(path.read_bytes())
    identity = {
        "settings": settings,
        "code": code.hexdigest(),
        "weights": hashlib.sha256(weights.read_bytes()).hexdigest() if weights else None,
        "data": [data.facts.version, data.train_split.digest, data.test_split.digest],
        "libraries": {name: importlib.metadata.version(name) for name in ("tensorflow", "keras")},
    }
    return hashlib.sha256(json.dumps(identity, sort_keys=True, default=str).encode()).hexdigest()[:32]


def _params(config: Config, data: Data) -> dict[str, Any]:
    facts = data.facts
    return {
        # Where a run was computed does not tell it apart from others.
        **{name: value for name, value in _leaves(config) if not name.startswith("launch.")},
        "head": config.head.name,
        "dataset": facts.name,
        "backbone": config.backbone.name,
        "image_size": facts.trained_at,
        "train_examples": len(data.train_indices),
        "validation_examples": len(data.validation_indices),
        "test_examples": len(data.test_split),
    }


def _leaves(config: Config) -> list[tuple[str, Any]]:
    """Every leaf of the configuration under its dotted name; lists stay whole."""
    from omegaconf import DictConfig, OmegaConf

    def walk(node: DictConfig, prefix: str) -> Iterator[tuple[str, Any]]:
        for key, value in node.items():
            name = prefix + str(key)
            if isinstance(value, DictConfig):
                yield from walk(value, f"{name}.")
            else:
                yield name, getattr(value, "value", value)

    return list(walk(OmegaConf.structured(config), ""))


def _json_number(value: float) -> float | None:
    return None if math.isnan(value) else value  # JSON has no NaN.


def _size_predictions(measured: list[MeasuredSize], labels: np.ndarray) -> pd.DataFrame:
    import pandas as pd

    columns = {
        condition(mode, result.size[0], way): classes
        for result in measured
        for way, answers in (("", result.answers), *result.ways.items())
        for mode, classes in (("resize", answers.resized), ("canvas", answers.on_canvas))
        if classes is not None
    }
    probed = labels[: len(next(iter(columns.values())))]
    return pd.DataFrame({"example_id": np.arange(len(probed)), "label": probed, **columns})


def _log_parquet(table: pd.DataFrame, name: str) -> None:
    import mlflow

    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / f"{name}.parquet"
        table.to_parquet(path, index=False)
        mlflow.log_artifact(str(path))


def _mlflow_dataset(facts: DatasetFacts, split: ImageSplit) -> Any:
    from mlflow.data.code_dataset_source import CodeDatasetSource
    from mlflow.data.meta_dataset import MetaDataset
    from mlflow.types import Schema, TensorSpec

    *size, channels = facts.image_shape
    shape = (-1, *((-1, -1) if facts.natural else size), channels)
    tags = {"tfds_name": facts.name, "tfds_version": facts.version, "split": split.name, "examples": len(split)}
    return MetaDataset(
        CodeDatasetSource(tags),
        name=f"{facts.name} {facts.version} {split.name}",
        digest=split.digest,
        schema=Schema([TensorSpec(np.dtype("uint8"), shape, "image")]),
    )
