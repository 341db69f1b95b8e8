"""Trained models in the formats of other runtimes, each run in its own and held against Keras before it is kept."""

from __future__ import annotations

import importlib.util
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from pipeline.common.errors import UserError, class_and_first_line, require
from pipeline.common.files import is_disk_full
from pipeline.common.size import Size, size_text
from pipeline.common.standard_error import turned_aside
from pipeline.models.keras_file import written
from pipeline.models.runs import larger_sizes
from pipeline.other_sizes.matrix_resize import with_matrix_resize
from pipeline.other_sizes.settings import Format

AT_ONCE = 32
"""Images that are run together, however many are given."""
Runner = Callable[[np.ndarray], np.ndarray]
"""From images (N, H, W, C) to outputs (N, K)."""


class Exporter(ABC):
    """One format.

    Attributes:
        packages: What it needs beside TensorFlow, as Python imports it; the extra `export` has it.
    """

    packages: tuple[str, ...] = ()

    @abstractmethod
    def write(self, model: keras.Model, path: Path) -> None:
        """Writes the model for any number of images at a time, of any size if the model takes any."""

    @abstractmethod
    def runner(self, path: Path) -> Runner:
        """Loads what was written into the format's own runtime."""


class SavedModel(Exporter):
    def write(self, model: keras.Model, path: Path) -> None:
        model.export(path, format="tf_saved_model", verbose=False, input_signature=_signature(model))

    def runner(self, path: Path) -> Runner:
        loaded = tf.saved_model.load(path)
        return lambda images: loaded.serve(images).numpy()


class Onnx(Exporter):
    packages = ("onnx", "onnxruntime", "tf2onnx")

    def write(self, model: keras.Model, path: Path) -> None:
        model = with_matrix_resize(model)
        model.export(path, format="onnx", verbose=False, input_signature=_signature(model))

    def runner(self, path: Path) -> Runner:
        import onnxruntime

        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        (taken,) = session.get_inputs()
        return lambda images: session.run(None, {taken.name: images})[0]


class LiteRT(Exporter):
    packages = ("ai_edge_litert",)

    def write(self, model: keras.Model, path: Path) -> None:
        model = with_matrix_resize(model)
        # Operations of LiteRT alone, without those of TensorFlow that Keras would allow and that few builds of it have.
        operations = {"supported_ops": [tf.lite.OpsSet.TFLITE_BUILTINS]}
        model.export(path, format="litert", verbose=False, input_signature=_signature(model), target_spec=operations)

    def runner(self, path: Path) -> Runner:
        from ai_edge_litert.interpreter import Interpreter

        interpreter = Interpreter(str(path))
        (taken,), (given,) = interpreter.get_input_details(), interpreter.get_output_details()

        def run(images: np.ndarray) -> np.ndarray:
            interpreter.resize_tensor_input(taken["index"], images.shape, strict=True)
            interpreter.allocate_tensors()
            interpreter.set_tensor(taken["index"], images)
            interpreter.invoke()
            return interpreter.get_tensor(given["index"])

        return run


EXPORTERS: dict[Format, Exporter] = {
    Format.saved_model: SavedModel(),
    Format.onnx: Onnx(),
    Format.litert: LiteRT(),
}


def check_installed(chosen: Format) -> None:
    """Raises `ConfigError` unless what a format needs is installed; Keras's own needs nothing."""
    packages = EXPORTERS[chosen].packages if chosen in EXPORTERS else ()
    missing = [package for package in packages if importlib.util.find_spec(package) is None]
    rule = f"needs {' and '.join(missing)}, not installed here"
    require(not missing, "format", chosen.name, rule, "Install the extra: pip install '.[export]'.")


def sizes_to_prove(model: keras.Model, size: Size) -> list[Size]:
    """The size of training, and if a model takes any size also 1.5 times it, and twice it and one more."""
    if None not in model.input_shape[1:3]:
        return [size]
    half_more, _, twice_and_one = larger_sizes(size)
    return [size, half_more, twice_and_one]


def export(
    model: keras.Model, output: Path, chosen: Format, images: Sequence[np.ndarray], tolerance: float
) -> Iterator[str]:
    """Writes a model, runs what was written in its own runtime, and holds it against Keras.

    Args:
        model: From images (N, H, W, C) or (N, ?, ?, C) to outputs (N, K).
        output: The file or directory.
        chosen: A format of `EXPORTERS`.
        images: To run, an array (N, H, W, C) of the model's type for each size.
        tolerance: Largest difference of the answers, relative to the largest answer (but at least to 1).

    Yields:
        What was proved, a sentence for each size.

    Raises:
        UserError: The format cannot hold the model, the answers differ, or it cannot be written. Nothing is written.
    """
    exporter = EXPORTERS[chosen]
    with written(output, chosen.value, "output") as beside:
        try:
            with _without_notes():
                exporter.write(model, beside)
                run = exporter.runner(beside)
        except Exception as error:  # Each format has its own way of refusing a model.
            if is_disk_full(error):
                raise
            raise _cannot(chosen, "hold this model", error) from error
        for batch in images:
            yield _proof(model, run, chosen, batch, tolerance)


def _proof(model: keras.Model, run: Runner, chosen: Format, batch: np.ndarray, tolerance: float) -> str:
    # Several at once, and one alone: any number is taken.
    slices = [batch[start : start + AT_ONCE] for start in range(0, len(batch), AT_ONCE)] + [batch[:1]]
    expected = np.concatenate([np.asarray(model(images, training=False)) for images in slices])
    try:
        with _without_notes():
            received = np.concatenate([run(images) for images in slices])
    except Exception as error:
        raise _cannot(chosen, f"run this model at {size_text(batch.shape[1:3])} px", error) from error
    largest = max(1.0, float(np.abs(expected).max()))
    difference = float(np.abs(expected - received).max())
    found = (
        f"at {size_text(batch.shape[1:3])} px on {len(batch)} images: largest difference {difference:.1e}, "
        f"outputs up to {largest:.3g}"
    )
    if not difference <= tolerance * largest:
        raise UserError(
            f"format={chosen.name}: run in its own runtime, the model does not answer as in Keras {found}; tolerance "
            f"{tolerance:.0e} of these. Nothing was written. If that is rounding, allow it with tolerance=1e-4; else "
            "use another format."
        )
    return f"Same answers in Keras and in {chosen.name} {found}"


@contextmanager
def _without_notes() -> Iterator[None]:
    """Keeps what the libraries write and log from the user: if it matters, they raise an error too."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with turned_aside(shown_on_error=False):
            yield
    finally:
        logging.disable(before)


def _cannot(chosen: Format, what: str, error: Exception) -> UserError:
    others = [other.name for other in Format if other is not chosen]
    return UserError(
        f"format={chosen.name}: cannot {what}: {class_and_first_line(error)}. Nothing was written. Use "
        f"format={' or format='.join(others)}."
    )


def _signature(model: keras.Model) -> list[keras.InputSpec]:
    return [keras.InputSpec(model.inputs[0].dtype, (None, *model.input_shape[1:]), name="images")]
