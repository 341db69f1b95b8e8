"""Models that were recorded, read back."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import keras
import mlflow

from pipeline.common.errors import ConfigError, require
from pipeline.common.size import Size, recorded_size
from pipeline.models.keras_file import load_model
from pipeline.tracking.settings import Tracking
from pipeline.tracking.store import open_store


@dataclass(frozen=True)
class Source:
    """A trained model and where it comes from.

    Attributes:
        model: The model.
        name: For file names.
        image_size: Height and width in pixels that its run recorded; None if it has none, or trained on many.
    """

    model: keras.Model
    name: str
    image_size: Size | None = None


def load_source(typed: str, tracking: Tracking, output_path: Path) -> Source:
    """Loads a model without running code from it.

    Args:
        typed: Path of a `.keras` file, or an MLflow model URI.
        tracking: Where the model was recorded, for a URI.
        output_path: The `output_dir` of the run that recorded it, for a URI.

    Raises:
        UserError: It cannot be found or loaded.
    """
    if typed.startswith(("models:/", "runs:/")):
        return _load_recorded(typed, tracking, output_path)
    path = Path(typed).expanduser().absolute()
    return Source(load_model(path, "model"), path.stem)


def _load_recorded(uri: str, tracking: Tracking, output_path: Path) -> Source:
    open_store(tracking, output_path, create=False)
    try:
        info = mlflow.models.get_model_info(uri)
        directory = Path(mlflow.artifacts.download_artifacts(uri))
    except (mlflow.MlflowException, OSError) as error:
        raise ConfigError(
            "model",
            uri,
            f"MLflow does not have it: {str(error).splitlines()[0]}",
            "Give a URI as a run's page shows it, models:/NAME/VERSION, or the path of a .keras file.",
        ) from error
    files = sorted(directory.rglob("*.keras"))
    require(
        len(files) == 1,
        "model",
        uri,
        f"holds {len(files)} .keras files, and has to hold one",
        "Give a model that was recorded in Keras's own format.",
    )
    recorded = recorded_size(mlflow.get_run(info.run_id).data.params) if info.run_id else None
    return Source(
        model=load_model(files[0], "model"),
        name=uri.partition(":/")[2].strip("/").replace("/", "-"),
        image_size=None if recorded is None or recorded.natural else recorded.reference,
    )
