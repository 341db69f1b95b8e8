"""A trained model made to take images of any size: `python -m pipeline.convert model=my.keras way=dense_to_conv`."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from omegaconf import DictConfig

from pipeline import cli, model_file
from pipeline.config import Conversion, absolute, to_typed
from pipeline.errors import ConfigError, UserError, require
from pipeline.heads import Size, of_shape, size_text
from pipeline.size_transfer import (
    RESIZE_INPUT,
    WAY_RULES,
    NotRecognizedError,
    Parts,
    Way,
    before_dense,
    resize_input,
    take_apart,
    ways_for,
)
from pipeline.surgery import operation_text
from pipeline.tracking import store

if TYPE_CHECKING:
    import keras

RANDOM_IMAGES = 64
"""Of each kind, on which a converted model is held against its original."""
BATCH = 32
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif")


@dataclass(frozen=True)
class Source:
    """A trained model and where it comes from.

    Attributes:
        model: The model.
        name: For file names.
        image_size: Height and width in pixels that it was trained on; None if neither the model nor its run says.
    """

    model: keras.Model
    name: str
    image_size: Size | None


def load(config: Conversion) -> Source:
    """Loads the model from a `.keras` file or from MLflow, without running code from it.

    Raises:
        UserError: It cannot be found or loaded.
    """
    if config.model.startswith(("models:/", "runs:/")):
        return _load_recorded(config)
    path = absolute(config.model)
    model = model_file.load(path, "model")
    return Source(model, path.stem, _fixed_size(model))


def _load_recorded(config: Conversion) -> Source:
    store.open_store(config.tracking, config.output_path, create=False)
    import mlflow

    try:
        info = mlflow.models.get_model_info(config.model)
        directory = Path(mlflow.artifacts.download_artifacts(config.model))
    except (mlflow.MlflowException, OSError) as error:
        raise ConfigError(
            "model",
            config.model,
            f"MLflow does not have it: {str(error).splitlines()[0]}",
            "Give a URI as a run's page shows it, models:/NAME/VERSION, or the path of a .keras file.",
        ) from error
    files = sorted(directory.rglob("*.keras"))
    require(
        len(files) == 1,
        "model",
        config.model,
        f"holds {len(files)} .keras files, and has to hold one",
        "Give a model that was recorded in Keras's own format.",
    )
    model = model_file.load(files[0], "model")
    recorded = None
    if info.run_id:
        text = mlflow.get_run(info.run_id).data.params.get("image_size", "")
        sides = text.split("×")
        recorded = (int(sides[0]), int(sides[1])) if len(sides) == 2 and all(map(str.isdigit, sides)) else None
    name = config.model.partition(":/")[2].strip("/").replace("/", "-")
    return Source(model, name, _fixed_size(model) or recorded)


def _check_takes_images(model: keras.Model, name: str) -> None:
    shapes = [
        tensor.shape for tensor in [*(getattr(model, "inputs", None) or []), *(getattr(model, "outputs", None) or [])]
    ]
    require(
        [len(shape) for shape in shapes] == [4, 2],
        "model",
        name,
        f"has to turn one batch of images (N, H, W, C) into one of outputs (N, K); its inputs and outputs are {shapes}",
        "Give a functional or Sequential model that classifies images.",
    )


def _fixed_size(model: keras.Model) -> Size | None:
    shape = getattr(model, "input_shape", None)
    if not isinstance(shape, tuple) or len(shape) != 4 or None in shape[1:3]:
        return None
    return shape[1], shape[2]


def convert(config: Conversion) -> Path | None:
    """Converts, proves that the answers at the training size stay the same, and writes the model.

    Returns:
        The file; None if no way was chosen, and only those that there are were printed.

    Raises:
        UserError: The model cannot be loaded, taken apart or written, the way is not for it, or the answers differ.
    """
    source = load(config)
    model = source.model
    _check_takes_images(model, config.model)
    size = (config.image_size[0], config.image_size[1]) if config.image_size else source.image_size
    if size is None:
        raise ConfigError(
            "image_size",
            None,
            f"is needed: {config.model} takes images of any size, {model.input_shape}, and does not say which it was "
            "trained on",
            "Give it, for example image_size=[28,28].",
        )
    fixed = _fixed_size(model)
    require(
        fixed is None or fixed == size,
        "image_size",
        config.image_size,
        f"the model is built for {size_text(fixed or size)} px",
        "Leave it out.",
    )
    say = functools.partial(cli.console().print, soft_wrap=True)
    shapes = f"images {_shape(model.input_shape)} to {_shape(model.output_shape)}"
    say(f"{config.model}: {shapes}, trained at {size_text(size)} px")
    parts, rule = None, ""
    ways: dict[str, Way | None] = {RESIZE_INPUT: None}
    try:
        parts = take_apart(model, size)
    except NotRecognizedError as error:
        say(f"Not recognised. {error}")
        rule = "is only for models that are recognised"
    else:
        say(f"Recognised: {_describe(parts)}")
        ways |= {way.name: way for way in ways_for(parts)}
        end = [parts.collapse.value, *(operation_text(layer) for layer in before_dense(parts))]
        rule = f"is not for a model that ends in {', '.join(end)}"
    if config.way is None:
        for name in ways:
            say(f"  way={name}: {WAY_RULES[name]}")
        return None
    require(config.way in ways, "way", config.way, rule, f"Use {' or '.join(ways)}.")
    way = ways[config.way]
    say(f"{config.way}: {WAY_RULES[config.way]}")
    converted = way.convert(parts) if way and parts else resize_input(model, size)
    output = absolute(config.output or f"{source.name}-{config.way}.keras")
    with model_file.written(converted, output, "output") as beside:
        # What was written is what is held against the original.
        for proof in _proofs(model, model_file.load(beside, "output"), size, config):
            say(proof)
    say(f"Takes images of {size_text(_smallest(way, parts, size))} px and more.")
    say(f"Written: {output}")
    return output


def _proofs(original: keras.Model, converted: keras.Model, size: Size, config: Conversion) -> Iterator[str]:
    """A sentence for each kind of images on which both models answer the same at the training size.

    Raises:
        UserError: They do not.
    """
    shape = (*size, original.input_shape[-1])
    batches = {f"{2 * RANDOM_IMAGES} random images": _random_images(shape, original.inputs[0].dtype)}
    if config.images is not None:
        given = given_images(config.images, shape)
        batches[f"{len(given)} images of {config.images}"] = given
    for what, images in batches.items():
        difference, largest = 0.0, 1.0
        for start in range(0, len(images), BATCH):
            batch = images[start : start + BATCH].astype(original.inputs[0].dtype)
            expected, received = (np.asarray(model(batch, training=False)) for model in (original, converted))
            largest = max(largest, float(np.abs(expected).max()))
            difference = max(difference, float(np.abs(expected - received).max()))
            if not np.isfinite(received).all():
                difference = math.nan
                break
        text = f"at {size_text(size)} px on {what}: largest difference {difference:.1e}, outputs up to {largest:.3g}"
        if not difference <= config.tolerance * largest:
            raise UserError(
                f"way={config.way}: the converted model does not answer like the original {text}; tolerance "
                f"{config.tolerance:.0e} of these. Nothing was written. If that is rounding, as in sums of large "
                f"numbers before a softmax, allow it with tolerance=1e-4; else use way={RESIZE_INPUT}."
            )
        yield f"Same answers {text}"


def _random_images(shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """Images of noise, half of them from 0 to 255 and half from 0 to 1, whichever the model is used to."""
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (RANDOM_IMAGES, *shape))
    shares = generator.random((RANDOM_IMAGES, *shape), np.float32)
    return np.concatenate([pixels, shares if "float" in dtype else generator.integers(0, 256, shares.shape)])


def given_images(path: str, shape: tuple[int, ...]) -> np.ndarray:
    """Images (N, *shape) of a `.npy` file, or of the image files in a directory, resized.

    Raises:
        ConfigError: There are none, they cannot be read, or have another shape.
    """
    source = absolute(path)
    remedy = "Give a .npy file of images (N, H, W, C), or a directory of image files."
    require(source.exists(), "images", path, "there is no such file or directory", remedy)
    try:
        images = _image_files(source, shape) if source.is_dir() else np.load(source, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise ConfigError("images", path, f"cannot be read: {str(error).splitlines()[0]}", remedy) from error
    require(isinstance(images, np.ndarray), "images", path, "holds several arrays", remedy)
    require(
        images.ndim == 4 and images.shape[1:] == shape and len(images) > 0,
        "images",
        path,
        f"holds an array of shape {images.shape}; needed is (N, {', '.join(map(str, shape))})",
        remedy,
    )
    return images


def _image_files(directory: Path, shape: tuple[int, ...]) -> np.ndarray:
    import keras

    modes = {1: "grayscale", 3: "rgb", 4: "rgba"}
    if shape[2] not in modes:
        raise ValueError(f"the model takes images of {shape[2]} channels, and image files have 1, 3 or 4")
    files = [path for path in sorted(directory.iterdir()) if path.suffix.lower() in IMAGE_SUFFIXES]
    images = [keras.utils.load_img(path, color_mode=modes[shape[2]], target_size=shape[:2]) for path in files]
    return np.stack([keras.utils.img_to_array(image) for image in images]) if images else np.empty((0, *shape))


def _smallest(way: Way | None, parts: Parts | None, size: Size) -> Size:
    """The smallest image, of the shape of those of training, that a converted model takes."""
    if way is None or parts is None:
        return (1, 1)
    smallest = size
    for height in range(size[0] - 1, 0, -1):
        smaller = of_shape(size, height)
        try:
            shape = parts.extractor.compute_output_shape((None, *smaller, parts.extractor.input_shape[-1]))
        except ValueError:  # No map is left.
            break
        if min(shape[1:3]) < 1 or way.refusal(parts.map_size, shape[1:3]) is not None:
            break
        smallest = smaller
    return smallest


def _describe(parts: Parts) -> str:
    layers = ", ".join(operation_text(layer) for layer in parts.dense)
    size = f"{size_text(parts.map_size)}×{parts.extractor.output_shape[-1]}"
    return f"an extractor with feature map {size}, {parts.collapse.value}, {layers}"


def _shape(shape: tuple[int | None, ...]) -> str:
    return f"({', '.join('?' if side is None else str(side) for side in shape)})"


@cli.command("convert")
def main(composed: DictConfig) -> None:
    """Composes, checks and converts."""
    config = to_typed(composed, Conversion)
    cli.import_tensorflow()
    convert(config)


if __name__ == "__main__":
    main()
