"""Models that were recorded, read back."""

from __future__ import annotations

import atexit
import functools
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import keras
import mlflow

from pipeline.common.errors import ConfigError, first_line, require
from pipeline.common.files import expanded
from pipeline.common.size import Size, recorded_size
from pipeline.models.backbones.base import Backbone
from pipeline.models.keras_file import MODEL_URIS, load_model
from pipeline.tracking.settings import Tracking
from pipeline.tracking.store import open_store


@dataclass(frozen=True)
class Source:
    """A trained model and where it comes from.

    Attributes:
        model: The model.
        name: For file names.
        image_size: Height and width in pixels that its run recorded; None if it has none, or trained on many.
        class_names: Of its outputs, as its metadata has them; None if it has none.
    """

    model: keras.Model
    name: str
    image_size: Size | None = None
    class_names: tuple[str, ...] | None = None


def load_source(typed: str, tracking: Tracking, output_path: Path) -> Source:
    """Loads a model without running code from it.

    Args:
        typed: Path of a `.keras` file, or an MLflow model URI.
        tracking: Where the model was recorded, for a URI.
        output_path: The `output_dir` of the run that recorded it, for a URI.

    Raises:
        UserError: It cannot be found or loaded.
    """
    if typed.startswith(MODEL_URIS):
        return _load_recorded(typed, tracking, output_path)
    path = expanded(typed).absolute()
    return Source(load_model(path, "model"), path.stem)


def with_weights(backbone: Backbone, tracking: Tracking, output_path: Path) -> Backbone:
    """A backbone whose weights are on this machine: of one that is made of a model that MLflow has, made of its file.

    Args:
        backbone: As it was configured.
        tracking: Where the model was recorded.
        output_path: The `output_dir` of the run that recorded it.

    Raises:
        UserError: The model cannot be found, or the store does not answer.
    """
    if backbone.uri is None:
        return backbone
    open_store(tracking, output_path, create=False)
    return backbone.with_file(_brought(backbone.uri, "backbone.path", mlflow.get_tracking_uri()).file)


def _load_recorded(uri: str, tracking: Tracking, output_path: Path) -> Source:
    open_store(tracking, output_path, create=False)
    brought = _brought(uri, "model", mlflow.get_tracking_uri())
    about = mlflow.models.Model.load(str(brought.directory))  # Asked by its URI, MLflow would bring it here once more.
    run_id, names = about.run_id, (about.metadata or {}).get("class_names")
    recorded = recorded_size(mlflow.get_run(run_id).data.params) if run_id else None
    return Source(
        model=load_model(brought.file, "model"),
        name=uri.partition(":/")[2].strip("/").replace("/", "-"),
        image_size=None if recorded is None or recorded.natural else recorded.reference,
        class_names=tuple(map(str, names)) if isinstance(names, list) else None,
    )


@dataclass(frozen=True)
class _Brought:
    """A recorded model on this machine: MLflow's directory of it, and the `.keras` file in that."""

    directory: Path
    file: Path


@functools.cache
def _brought(uri: str, key: str, store: str) -> _Brought:
    """A recorded model, brought to this machine once in each process; a sweep asks for it in every run.

    Args:
        uri: Of the model.
        key: The setting that names it, for messages.
        store: The URI of the store that is open.

    Raises:
        ConfigError: MLflow does not have it, or has it in another format.
    """
    # What is on this machine is read where it is; what a server has is brought here until the process ends.
    place = _temporary() if store.startswith(("http:", "https:")) else None
    try:
        directory = Path(mlflow.artifacts.download_artifacts(uri, dst_path=place))
    except (mlflow.MlflowException, OSError) as error:
        raise ConfigError(
            key,
            uri,
            f"MLflow does not have it in {store}: {first_line(error)}",
            "Give a URI as a run's page shows it, models:/NAME/VERSION, or the path of a .keras file.",
        ) from error
    files = sorted(directory.rglob("*.keras"))
    require(
        len(files) == 1,
        key,
        uri,
        f"holds {len(files)} .keras files, and has to hold one",
        "Give a model that was recorded in Keras's own format.",
    )
    return _Brought(directory, files[0])


def _temporary() -> str:
    """A directory for one model, which is gone when this process ends."""
    directory = tempfile.mkdtemp(prefix="model-")
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    return directory
