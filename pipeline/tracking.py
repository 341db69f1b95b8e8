"""Every MLflow call of the program: the store, one run's record, and reading a study back.

MLflow is imported where it is used, so that composing a configuration stays fast.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import numpy as np

from pipeline.errors import UserError, require

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

STORE_FILE = "mlflow.db"


@dataclass
class Tracking:
    """Where results are recorded.

    Attributes:
        uri: MLflow tracking URI; null for a SQLite store in `output_dir`.
        experiment: Name of the MLflow experiment; null for the dataset's name.
        log_model: Record the trained model.
    """

    uri: str | None = None
    experiment: str | None = None
    log_model: bool = True

    def __post_init__(self) -> None:
        address = urlsplit(self.uri or "")
        require(
            address.username is None and address.password is None,
            "tracking.uri",
            f"{address.scheme}://***@{address.hostname}",
            "must not hold a user or a password, which would be printed and logged",
            "Set the environment variables MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD instead.",
        )


def store_uri(tracking: Tracking, output_path: Path) -> str:
    """The tracking URI: the configured one, or the absolute one of the SQLite store in `output_path`."""
    return tracking.uri or f"sqlite:///{output_path / STORE_FILE}"


def open_store(tracking: Tracking, output_path: Path) -> None:
    """Points MLflow at the store, creating the local one if need be. Any number of processes may do so at once.

    Raises:
        UserError: The server does not answer, or the store cannot be created or read.
    """
    # A dead server would block the first call for minutes. Three tries of ten seconds tell as well.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    import mlflow

    logging.getLogger("mlflow").setLevel(logging.WARNING)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    uri = store_uri(tracking, output_path)
    try:
        if tracking.uri is None:
            _create_local_store(output_path)
        mlflow.set_tracking_uri(uri)
        mlflow.MlflowClient().search_experiments(max_results=1)
    except (mlflow.MlflowException, OSError) as error:
        raise UserError(
            f"tracking.uri={uri}: the MLflow store does not answer: {str(error).splitlines()[0]}. Start the server, "
            "or use tracking=local with an output_dir that can be written to."
        ) from error


def _create_local_store(output_path: Path) -> None:
    import mlflow
    from filelock import FileLock

    store = output_path / STORE_FILE
    output_path.mkdir(parents=True, exist_ok=True)
    # Two processes that both create the tables break the database for good.
    with FileLock(output_path / f"{STORE_FILE}.lock"):
        if store.exists():
            return
        # Beside it, then renamed: a killed process never leaves half a database under the final name.
        beside = output_path / f"incomplete-{os.getpid()}-{STORE_FILE}"
        mlflow.MlflowClient(tracking_uri=f"sqlite:///{beside}").search_experiments(max_results=1)
        beside.replace(store)


def _experiment_id(name: str, tracking: Tracking, output_path: Path) -> str:
    import mlflow

    client = mlflow.MlflowClient()
    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        # A server decides for itself where its artifacts go.
        artifacts = None if tracking.uri else (output_path / "artifacts" / name.replace("/", "-")).as_uri()
        try:
            return client.create_experiment(name, artifact_location=artifacts)
        except mlflow.MlflowException:  # Another process created it meanwhile.
            experiment = client.get_experiment_by_name(name)
            if experiment is None:
                raise
    if experiment.lifecycle_stage != "active":
        raise UserError(
            f"tracking.experiment={name}: this MLflow experiment was deleted. Bring it back with mlflow experiments "
            f"restore --experiment-id {experiment.experiment_id}, or use another name with tracking.experiment=NAME."
        )
    return experiment.experiment_id


@contextmanager
def start_run(config: Config, composed: str, data: Data, sweep: str | None) -> Iterator[RunRecord]:
    """Opens the MLflow run of one training and ends it as FINISHED, FAILED or KILLED.

    Args:
        config: The typed configuration.
        composed: The same as YAML.
        data: The data of the run.
        sweep: What all runs of one call of a study have in common, to tell them from those of another call.
    """
    import mlflow

    facts = data.facts
    experiment_id = _experiment_id(experiment_name(config.tracking, facts), config.tracking, config.output_path)
    tags = {
        "head": config.head.name,
        "dataset": facts.name,
        "backbone": config.backbone.name,
        "run_key": run_key(config, data),
        "mlflow.runColor": config.head.color,
    }
    if config.study is not None:
        tags["study"] = config.study
    if sweep is not None:
        tags["sweep"] = sweep
    name = f"{config.head.name} seed {config.seed}"
    run = mlflow.start_run(experiment_id=experiment_id, run_name=name, tags=tags)
    try:
        mlflow.log_params(_params(config, data))
        mlflow.log_text(composed, "config.yaml")
        mlflow.log_input(_mlflow_dataset(facts, data.train_split), context="training")
        mlflow.log_input(_mlflow_dataset(facts, data.test_split), context="testing")
        yield RunRecord(run.info.run_id)
    except (KeyboardInterrupt, SystemExit):
        mlflow.end_run("KILLED")
        raise
    except BaseException as error:
        with suppress(mlflow.MlflowException):  # What went wrong first is what the user has to see.
            mlflow.set_tag("failure", f"{type(error).__name__}: {error}"[:5000])
            mlflow.end_run("FAILED")
        raise
    mlflow.end_run("FINISHED")


def experiment_name(tracking: Tracking, facts: DatasetFacts) -> str:
    """Name of the MLflow experiment that a run belongs to."""
    return tracking.experiment or facts.name


class RunRecord:
    """What is recorded of one run. Names of metrics, tags and files are fixed: dashboards depend on them."""

    def __init__(self, run_id: str) -> None:
        self.run_id = run_id

    def pairing(self, pairing: Pairing) -> None:
        """Records what the run starts from, for a comparison to see which runs differ in their head alone."""
        import mlflow

        mlflow.set_tags({f"pairing.{name}": digest for name, digest in asdict(pairing).items()})

    def epoch(self, epoch: int, metrics: dict[str, float]) -> None:
        """Records the metrics that Keras gives after epoch `epoch`, counted from 0, at step `epoch` + 1."""
        import mlflow

        names = {
            "accuracy": "train/accuracy",
            "loss": "train/loss",
            "val_accuracy": "val/accuracy",
            "val_loss": "val/loss",
        }
        mlflow.log_metrics({names[key]: value for key, value in metrics.items() if key in names}, step=epoch + 1)

    def fit(self, fit: Fit) -> None:
        """Records how fast the training was and which epoch's weights were kept (counted from 1)."""
        import mlflow

        mlflow.log_metrics({"train/images_per_second": fit.images_per_second, "train/kept_epoch": fit.best_epoch + 1})

    def test(self, logits: np.ndarray, labels: np.ndarray, accuracy: float, loss: float) -> None:
        """Records the test metrics, and the logits (N, K) and labels (N,) as `predictions.parquet`."""
        import mlflow
        import pandas as pd

        mlflow.log_metrics({"test/accuracy": accuracy, "test/loss": loss})
        columns = {f"logit_{column}": logits[:, column] for column in range(logits.shape[1])}
        _log_parquet(pd.DataFrame({"example_id": np.arange(len(labels)), "label": labels, **columns}), "predictions")

    def cost(self, cost: Cost) -> None:
        """Records parameter counts, operations and time."""
        import mlflow

        mlflow.log_metrics(
            {
                "params/total": cost.parameters_total,
                "params/backbone": cost.parameters_backbone,
                "params/head": cost.parameters_head,
                "cost/flops": cost.flops,
                "cost/memory_bytes": cost.memory_bytes,
                "cost/ms_per_image": cost.ms_per_image,
            }
        )

    def sizes(self, planned: list[PlannedSize], measured: list[MeasuredSize], labels: np.ndarray) -> None:
        """Records what happens at each image size: metrics with step = height in pixels, tags, table, figure.

        The class predicted for each test image goes to `size_predictions.parquet`, a column for each size and way of
        making the image; `labels` (N,) are the true ones.
        """
        import mlflow
        import pandas as pd
        from mlflow.entities import Metric, RunTag

        now = int(time.time() * 1000)
        metrics, tags, rows = [], [], []
        for plan, result in zip(planned, measured, strict=True):
            height, width = result.size
            values = {
                "size/px": height,
                "size/resize/accuracy": result.resize_accuracy,
                "size/canvas/accuracy": result.canvas_accuracy,
                "size/seen_fraction": result.seen_fraction,
            }
            metrics += [Metric(key, value, now, height) for key, value in values.items()]
            tags.append(RunTag(size_tag(height), result.verdict.value))
            rows.append(
                {
                    "height_px": height,
                    "width_px": width,
                    "feature_map": "×".join(map(str, result.map_size)) if result.map_size else None,
                    "verdict": result.verdict.value,
                    "seen_fraction": result.seen_fraction,
                    # JSON has no NaN.
                    "resize_accuracy": None if math.isnan(result.resize_accuracy) else result.resize_accuracy,
                    "canvas_accuracy": None if math.isnan(result.canvas_accuracy) else result.canvas_accuracy,
                    "parameters_if_built_for_it": plan.parameters,
                    "reason": plan.reason,
                }
            )
        mlflow.MlflowClient().log_batch(self.run_id, metrics=metrics, tags=tags)
        mlflow.log_table(pd.DataFrame(rows).astype(object), "size_behavior.json")
        _log_parquet(_size_predictions(measured, labels), "size_predictions")
        mlflow.log_figure(_size_figure(measured), "size_behavior.png", save_kwargs={"dpi": 120})

    def model(self, model: keras.Model, class_names: tuple[str, ...]) -> None:
        """Records the model: uint8 pixels in, logits out, -1 in the signature for every size that is free."""
        import importlib.metadata

        import mlflow
        from mlflow.models import ModelSignature
        from mlflow.types import Schema, TensorSpec

        def schema(dtype: str, shape: tuple[int | None, ...]) -> Schema:
            return Schema([TensorSpec(np.dtype(dtype), tuple(-1 if side is None else side for side in shape))])

        signature = ModelSignature(schema("uint8", model.input_shape), schema("float32", model.output_shape))
        # Inferring the requirements would take ten times as long.
        requirements = [f"{name}=={importlib.metadata.version(name)}" for name in ("mlflow", "tensorflow", "keras")]
        mlflow.keras.log_model(
            model,
            name="model",
            signature=signature,
            pip_requirements=requirements,
            metadata={"class_names": list(class_names)},
        )


def size_tag(height: int) -> str:
    """Name of the tag that holds the verdict at a height in pixels; sorts by size."""
    return f"size.{height:03d}px"


def run_key(config: Config, data: Data) -> str:
    """Digest of what determines a run's result: configuration, code, data, and the libraries that compute."""
    import importlib.metadata

    indifferent = ("tracking.", "output_dir", "study", "dataset.data_dir")
    settings = {key: value for key, value in _leaves(config) if not key.startswith(indifferent)}
    weights = settings.get("backbone.weights")
    code = hashlib.sha256()
    for path in sorted(Path(__file__).parent.rglob("*.py")):
        code.update(path.read_bytes())
    identity = {
        "settings": settings,
        "code": code.hexdigest(),
        "weights": hashlib.sha256(Path(weights).read_bytes()).hexdigest() if weights else None,
        "data": [data.facts.version, data.train_split.digest, data.test_split.digest],
        "libraries": {name: importlib.metadata.version(name) for name in ("tensorflow", "keras")},
    }
    return hashlib.sha256(json.dumps(identity, sort_keys=True, default=str).encode()).hexdigest()[:32]


def study_runs(tracking: Tracking, output_path: Path, sweep: str) -> pd.DataFrame:
    """The runs of one call of a study, a row each, as `mlflow.search_runs` gives them."""
    import mlflow

    open_store(tracking, output_path)
    return mlflow.search_runs(
        search_all_experiments=True, filter_string=f"tags.sweep = '{sweep}'", order_by=["attributes.start_time ASC"]
    )


def size_histories(run_ids: Iterable[str]) -> dict[str, dict[str, dict[int, float]]]:
    """Of each run, the metrics by image size: metric name to height in pixels to value."""
    import mlflow

    client = mlflow.MlflowClient()
    return {
        run_id: {
            key: {metric.step: metric.value for metric in client.get_metric_history(run_id, key)}
            for key in ("size/resize/accuracy", "size/canvas/accuracy", "size/seen_fraction")
        }
        for run_id in run_ids
    }


def _params(config: Config, data: Data) -> dict[str, Any]:
    facts = data.facts
    return {
        **dict(_leaves(config)),
        "head": config.head.name,
        "dataset": facts.name,
        "backbone": config.backbone.name,
        "image_size": "×".join(map(str, facts.image_size)),
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


def _size_predictions(measured: list[MeasuredSize], labels: np.ndarray) -> pd.DataFrame:
    import pandas as pd

    columns = {
        f"{mode}_{result.size[0]:03d}px": classes
        for result in measured
        for mode, classes in (("resize", result.resize_classes), ("canvas", result.canvas_classes))
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

    tags = {"tfds_name": facts.name, "tfds_version": facts.version, "split": split.name, "examples": len(split)}
    return MetaDataset(
        CodeDatasetSource(tags),
        name=f"{facts.name} {facts.version} {split.name}",
        digest=split.digest,
        schema=Schema([TensorSpec(np.dtype("uint8"), (-1, *facts.image_shape), "image")]),
    )


def _size_figure(measured: list[MeasuredSize]) -> Figure:
    """Accuracy by image size, refused sizes marked, and below it the share of the feature map that counts."""
    from matplotlib.figure import Figure

    heights = [result.size[0] for result in measured]
    figure = Figure(figsize=(7, 5), layout="constrained")
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    top.plot(heights, [result.resize_accuracy for result in measured], "o-", color="#0072B2", label="resized")
    top.plot(heights, [result.canvas_accuracy for result in measured], "s--", color="#D55E00", label="on a canvas")
    refused = [result.size[0] for result in measured if result.verdict.value == "refuses"]
    top.plot(refused, [0.0] * len(refused), "kx", label="refused", clip_on=False)
    cropped = [result.size[0] for result in measured if result.verdict.value == "crops"]
    for height in cropped:
        top.axvspan(
            height - 0.5, height + 0.5, color="0.85", hatch="//", label="cropped" if height == cropped[0] else None
        )
    top.set(ylabel="test accuracy", ylim=(0, 1))
    top.legend()
    bottom.step(heights, [result.seen_fraction for result in measured], "k.-", where="mid")
    bottom.set(xlabel="image height / px", ylabel="seen fraction", ylim=(-0.05, 1.05), xticks=heights)
    return figure
