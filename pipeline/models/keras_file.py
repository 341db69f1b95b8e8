"""Keras models in files: read without running code from them, written whole or not at all."""

from __future__ import annotations

import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from pipeline.common.errors import ConfigError, excerpt, first_line, require
from pipeline.common.files import DiskFullError, atomic_write, is_disk_full

if TYPE_CHECKING:
    import keras

MODEL_URIS = ("models:/", "runs:/")
"""How a text begins that names a model which MLflow has, and no file."""
HDF5 = b"\x89HDF\r\n\x1a\n"
"""How every HDF5 file begins."""
MAX_DESCRIPTION = 10**8
"""Bytes of a description of layers; those of the largest networks of Keras have less than a hundredth."""


def check_keras_file(path: Path, key: str) -> None:
    """Raises `ConfigError` unless `path`, which the setting `key` names, looks like a file of Keras's format."""
    _check_other_formats(path, key)
    require(path.is_file(), key, path, "there is no such file", f"Give the path of a .keras file: {key}=PATH.")
    remedy = "Save the model with model.save('NAME.keras')."
    require(
        path.suffix == ".keras" and zipfile.is_zipfile(path),
        key,
        path,
        "is not in Keras's .keras format, or is cut short",
        remedy,
    )
    try:
        # A zip is read up to the sizes that it declares, whatever follows.
        sizes = {member.filename: member.file_size for member in zipfile.ZipFile(path).infolist()}
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise ConfigError(key, path, f"is a damaged zip file: {first_line(error)}", remedy) from error
    free = psutil.virtual_memory().available
    for name, size in sizes.items():
        most = min(free, MAX_DESCRIPTION) if name.endswith(".json") else free
        require(
            size <= most,
            key,
            path,
            f"holds {excerpt(name)}, which unpacks to {size / 1e9:.1f} GB; it may have {most / 1e9:.1f} GB",
            remedy if most < free else "Use a smaller model, or more memory.",
        )


def _check_other_formats(path: Path, key: str) -> None:
    """Raises `ConfigError` for what Keras saved in another format: it says which, and how to save it again."""
    if path.is_dir():
        saved = (path / "saved_model.pb").is_file()
        by_keras_2 = (path / "keras_metadata.pb").is_file()
        if saved and by_keras_2:
            rule = "is a SavedModel of Keras 2, a directory"
            remedy = (
                "Where tf_keras is installed (pip install tf_keras), run "
                f"python -c \"import tf_keras; tf_keras.models.load_model('{path}').save('{path.name}.h5')\" and then "
                f"{_from_hdf5(Path(f'{path.name}.h5'))}"
            )
        elif saved:
            rule = "is a SavedModel, a directory: it holds what the model computes, but not its layers"
            remedy = (
                "In the program that made it, save the model itself with model.save('NAME.keras') in place of "
                "model.export or tf.saved_model.save."
            )
        else:
            rule, remedy = "is a directory", f"Give the path of a .keras file: {key}=PATH."
        raise ConfigError(key, path, rule, remedy)
    if not path.is_file():
        return
    with path.open("rb") as file:
        is_hdf5 = file.read(len(HDF5)) == HDF5
    if not is_hdf5:
        return
    import h5py

    try:
        with h5py.File(path) as content:
            whole = "model_config" in content.attrs
    except OSError as error:
        raise ConfigError(
            key, path, f"is a damaged HDF5 file: {first_line(error)}", "Save the model with model.save('NAME.keras')."
        ) from error
    if whole:
        raise ConfigError(key, path, "is a model in the older HDF5 format", f"Run {_from_hdf5(path)}")
    raise ConfigError(
        key,
        path,
        "holds weights alone, without the layers",
        "Build the model, read them with model.load_weights, and save it with model.save('NAME.keras').",
    )


def _from_hdf5(path: Path) -> str:
    """A command that saves a model of HDF5 in Keras's format."""
    new = path.with_suffix(".keras")
    return f"python -c \"import keras; keras.saving.load_model('{path}', compile=False).save('{new}')\" and give {new}."


def load_model(path: Path, key: str) -> keras.Model:
    """Loads a `.keras` file in Keras's safe mode.

    Args:
        path: The file.
        key: The setting that names it, for messages.

    Raises:
        ConfigError: There is no such file, it is not one of Keras's format, or it holds code.
    """
    import keras

    check_keras_file(path, key)
    try:
        with warnings.catch_warnings():
            # Keras only warns of layers that the file has no weights for.
            warnings.filterwarnings("error", "Skipping nested container")
            _check_sums(path)
            return keras.saving.load_model(path, compile=False, safe_mode=True)
    except Exception as error:  # A file of unknown origin can fail in any way.
        reason = str(error)
        if "Lambda" in reason or "unsafe" in reason:
            rule, remedy = "holds code (such as a Lambda layer), which is never run", "Replace it by layers of Keras."
        elif "Could not locate" in reason:
            what = reason.partition("Could not locate ")[2].partition(". ")[0]
            rule, remedy = f"needs the custom {what}, which Keras does not have", "Replace it by layers of Keras."
        else:
            rule = f"is not a model that Keras {keras.__version__} can load: {first_line(error)}"
            remedy = "Save it again with model.save('NAME.keras')."
        raise ConfigError(key, path, rule, remedy) from error


def _check_sums(path: Path) -> None:
    """Reads all of a zip file for its checksums, which Python 3.13 leaves out once a reader jumps."""
    with zipfile.ZipFile(path) as content:
        damaged = content.testzip()
    if damaged is not None:
        raise zipfile.BadZipFile(f"Bad CRC-32 for file {damaged!r}")


@contextmanager
def saved_model(model: keras.Model, path: Path, key: str) -> Iterator[Path]:
    """Writes a `.keras` file beside its place, and moves it there once the caller is content with it.

    Args:
        model: The model.
        path: The file; an older one is replaced.
        key: The setting that names it, for messages.

    Yields:
        Where the file is until the block ends without an error.

    Raises:
        ConfigError: The name does not end in `.keras`, or it cannot be written.
        DiskFullError: There is no room for it.
    """
    with written(path, ".keras", key) as beside:
        model.save(beside)
        yield beside


@contextmanager
def written(path: Path, suffix: str, key: str) -> Iterator[Path]:
    """As `atomic_write`, for a place that the setting `key` names, whose name has to end in `suffix`.

    Raises:
        ConfigError: The name does not, or it cannot be written.
        DiskFullError: There is no room for it.
    """
    require(path.name.endswith(suffix), key, path, f"has to end in {suffix}", f"Use for example {key}=new{suffix}.")
    require(not path.is_dir(), key, path, "is a directory that is there already", "Choose another, or remove it first.")
    try:
        with atomic_write(path) as beside:
            yield beside
    except OSError as error:
        if is_disk_full(error):
            raise DiskFullError(error, [path.parent], f"{key}=PATH") from error
        raise ConfigError(key, path, f"cannot be written: {error}", f"Choose another place with {key}=PATH.") from error
