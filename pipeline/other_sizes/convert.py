"""Makes a trained model take images of any size, and proves that it answers the same at its own."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import keras
import numpy as np

from pipeline.common.errors import ConfigError, UserError, first_line, require
from pipeline.common.files import expanded
from pipeline.common.size import Size, size_text
from pipeline.models.graph import operation_text
from pipeline.models.keras_file import load_model, saved_model
from pipeline.models.runs import Runs, larger_sizes
from pipeline.other_sizes.export import export, sizes_to_prove
from pipeline.other_sizes.parts import NotRecognizedError, Parts
from pipeline.other_sizes.settings import Format
from pipeline.other_sizes.take_apart import take_apart
from pipeline.other_sizes.ways import ways_for
from pipeline.other_sizes.ways.base import ImageWay, Way

RANDOM_IMAGES = 64
"""Of each kind, on which a converted model is held against its original."""
EXPORTED_IMAGES = 8
"""Of each kind and at each size, on which an exported model is held against Keras."""
BATCH = 32
MOST_ROUNDING = 1e-3
"""Largest difference, relative to the largest answer, that a message takes for rounding."""
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif")


class Conversion:
    """A trained model, what it is made of, and the ways in which it can take images of any size.

    Args:
        model: The trained model.
        typed: What was typed to name it, for messages.
        image_size: [height, width] in pixels of the training images; None where the model or its run says.
        recorded: Height and width that its run recorded; None if it has none.

    Attributes:
        size: Height and width in pixels of the training images.
        ways: By name.
        findings: What was found out about the model, in sentences.

    Raises:
        ConfigError: It does not classify images, or nothing says what it was trained on.
    """

    def __init__(
        self, model: keras.Model, typed: str, image_size: list[int] | None = None, recorded: Size | None = None
    ) -> None:
        _check_takes_images(model, typed)
        self.model = model
        self.size = _size_of_training(model, typed, image_size, recorded)
        shapes = f"images {_shape_text(model.input_shape)} to {_shape_text(model.output_shape)}"
        self.findings = [f"{typed}: {shapes}, trained at {size_text(self.size)} px"]
        self._parts: Parts | None = None
        try:
            self._parts = self._take_apart()
        except NotRecognizedError as error:
            self.findings.append(f"Not recognised. {error}")
            self._rule = "is only for models that are recognised"
        else:
            self.findings.append(f"Recognised: {_parts_text(self._parts)}")
            end = [self._parts.collapse.value, *(operation_text(layer) for layer in self._parts.before_dense)]
            without = "" if self._parts.has_dense else ", without a Dense layer"
            self._rule = f"is not for a model that ends in {', '.join(end)}{without}"
        self.ways: dict[str, Way] = {way.name: way for way in ways_for(self._parts)}

    @property
    def parts(self) -> Parts | None:
        """What the model is made of; None if that was not recognised."""
        return self._parts

    def way(self, name: str) -> Way:
        """The way of that name; raises `ConfigError` if the model does not allow it."""
        require(name in self.ways, "way", name, self._rule, f"Use {' or '.join(self.ways)}.")
        return self.ways[name]

    def write(self, way: Way, output: Path, tolerance: float, images: str | None) -> Iterator[str]:
        """Converts, writes, proves that the answers at the training size stay the same, and runs it at other sizes.

        Args:
            way: One of `ways`.
            output: The `.keras` file; an older one is replaced once the proof is there.
            tolerance: Largest difference of the answers, relative to the largest answer (but at least to 1).
            images: What `given_images` takes; None proves it on random images alone.

        Yields:
            What was proved, a sentence for each kind of images, and which sizes it takes.

        Raises:
            UserError: The answers differ, it does not run on larger images, or the model or the images cannot be
                written or read. Nothing is written.
        """
        with saved_model(way.convert(self.model, self._parts, self.size), output, "output") as beside:
            # What was written is what is held against the original, and what is run.
            converted = load_model(beside, "output")
            yield from self._proofs(converted, way, tolerance, images)
            yield self._sizes_taken(converted, way)

    def export(
        self, way: Way | None, output: Path, chosen: Format, tolerance: float, images: str | None
    ) -> Iterator[str]:
        """Writes the model, converted in a way or as it is, for another runtime; yields and raises as `write` does.

        Args:
            way: One of `ways`; None leaves the model as it is.
            output: The file or directory to write.
            chosen: Its format.
            tolerance: As for `write`, for the way and for the format.
            images: As for `write`.
        """
        model, dtype = self.model, self.model.inputs[0].dtype
        if way is not None:
            model = way.convert(self.model, self._parts, self.size)
            yield from self._proofs(model, way, tolerance, images)
            yield self._sizes_taken(model, way)
        shapes = [(*size, model.input_shape[-1]) for size in sizes_to_prove(model, self.size)]
        batches = [_random_images(shape, dtype, EXPORTED_IMAGES) for shape in shapes]
        if images is not None:
            batches.append(given_images(images, shapes[0]))
        yield from export(model, output, chosen, [batch.astype(dtype) for batch in batches], tolerance)

    def _sizes_taken(self, converted: keras.Model, way: Way) -> str:
        """Which sizes it takes, in a sentence; raises `UserError` if it does not run on larger images."""
        runs = Runs(converted)
        for failure in runs.failures(larger_sizes(self.size)):
            raise UserError(f"way={way.name}: {failure}. Nothing was written. {self._other_way(way)}")
        if (gap := runs.gap(self.size)) is not None:
            ran = ", ".join(map(size_text, [self.size, *larger_sizes(self.size)]))
            return f"Ran on images of {ran} px, but fails at {size_text(gap)} px: try each size that you need."
        return f"Takes images of {size_text(runs.smallest(self.size))} px and more."

    def _other_way(self, way: Way) -> str:
        exact = next(name for name, other in self.ways.items() if isinstance(other, ImageWay))
        return "Use another model." if way.name == exact else f"Use way={exact}."

    def _more_than_rounding(self, way: Way, images: np.ndarray) -> str:
        first, second = (np.asarray(self.model(images, training=False)) for _ in range(2))
        if not np.array_equal(first, second):
            return "The model itself answers differently each time: a layer of it is called with training=True."
        return f"That is more than rounding: {way.name} is not for this model. {self._other_way(way)}"

    def _take_apart(self) -> Parts:
        """The model's parts, if its extractor runs on larger images.

        Raises:
            NotRecognizedError: It does not, or the parts cannot be recognised.
        """
        parts = take_apart(self.model, self.size)
        failures = Runs(parts.extractor).failures(larger_sizes(self.size))
        if failures:
            one, first = len(failures) == len(larger_sizes(self.size)), failures[0]
            rule = f"{first.layer} is for one image size alone" if one and first.layer else str(first)
            raise NotRecognizedError(
                f"What comes before the {parts.collapse.value} is not fully convolutional: {rule}."
            )
        return parts

    def _proofs(self, converted: keras.Model, way: Way, tolerance: float, given: str | None) -> Iterator[str]:
        original, shape = self.model, (*self.size, self.model.input_shape[-1])
        batches = {f"{2 * RANDOM_IMAGES} random images": _random_images(shape, original.inputs[0].dtype)}
        if given is not None:
            images = given_images(given, shape)
            batches[f"{len(images)} images of {given}"] = images
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
            found = f"largest difference {difference:.1e}, outputs up to {largest:.3g}"
            text = f"at {size_text(self.size)} px on {what}: {found}"
            if not difference <= tolerance * largest:
                rounding = (
                    "If that is rounding, as in sums of large numbers before a softmax, allow it with "
                    f"tolerance={10 * difference / largest:.0e}; else use another way."
                )
                raise UserError(
                    f"way={way.name}: the converted model does not answer like the original {text}; tolerance "
                    f"{tolerance:.0e} of these. Nothing was written. "
                    + (rounding if difference <= MOST_ROUNDING * largest else self._more_than_rounding(way, batch))
                )
            yield f"Same answers {text}"


def fixed_size(model: keras.Model) -> Size | None:
    """Height and width in pixels of the images that a model takes; None if it takes any, or none."""
    shape = getattr(model, "input_shape", None)
    if not isinstance(shape, tuple) or len(shape) != 4 or None in shape[1:3]:
        return None
    return shape[1], shape[2]


def _size_of_training(model: keras.Model, typed: str, image_size: list[int] | None, recorded: Size | None) -> Size:
    fixed = fixed_size(model)
    size = (image_size[0], image_size[1]) if image_size else fixed or recorded
    if size is None:
        raise ConfigError(
            "image_size",
            None,
            f"is needed: {typed} takes images of any size, {model.input_shape}, and does not say which it was "
            "trained on",
            "Give it, for example image_size=[28,28].",
        )
    require(
        fixed is None or fixed == size,
        "image_size",
        image_size,
        f"the model is built for {size_text(fixed or size)} px",
        "Leave it out.",
    )
    return size


def _check_takes_images(model: keras.Model, typed: str) -> None:
    shapes = [
        tensor.shape for tensor in [*(getattr(model, "inputs", None) or []), *(getattr(model, "outputs", None) or [])]
    ]
    require(
        [len(shape) for shape in shapes] == [4, 2],
        "model",
        typed,
        f"has to turn one batch of images (N, H, W, C) into one of outputs (N, K); its inputs and outputs are {shapes}",
        "Give a functional or Sequential model that classifies images.",
    )


def _random_images(shape: tuple[int, ...], dtype: str, count: int = RANDOM_IMAGES) -> np.ndarray:
    """Images of noise, half of them from 0 to 255 and half from 0 to 1, whichever the model is used to."""
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (count, *shape))
    shares = generator.random((count, *shape), np.float32)
    return np.concatenate([pixels, shares if "float" in dtype else generator.integers(0, 256, shares.shape)])


def given_images(path: str, shape: tuple[int, ...]) -> np.ndarray:
    """Images (N, *shape) of a `.npy` file, or of the image files in a directory, resized.

    Raises:
        ConfigError: There are none, they cannot be read, or have another shape.
    """
    source = expanded(path).absolute()
    remedy = "Give a .npy file of images (N, H, W, C), or a directory of image files."
    require(source.exists(), "images", path, "there is no such file or directory", remedy)
    try:
        images = _image_files(source, shape) if source.is_dir() else np.load(source, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise ConfigError("images", path, f"cannot be read: {first_line(error)}", remedy) from error
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
    modes = {1: "grayscale", 3: "rgb", 4: "rgba"}
    if shape[2] not in modes:
        raise ValueError(f"the model takes images of {shape[2]} channels, and image files have 1, 3 or 4")
    files = [path for path in sorted(directory.iterdir()) if path.suffix.lower() in IMAGE_SUFFIXES]
    images = [keras.utils.load_img(path, color_mode=modes[shape[2]], target_size=shape[:2]) for path in files]
    return np.stack([keras.utils.img_to_array(image) for image in images]) if images else np.empty((0, *shape))


def _parts_text(parts: Parts) -> str:
    end = ", ".join([parts.collapse.value, *(operation_text(layer) for layer in parts.dense)])
    size = f"{size_text(parts.map_size)}×{parts.extractor.output_shape[-1]}"
    return f"an extractor with feature map {size}, {end}"


def _shape_text(shape: tuple[int | None, ...]) -> str:
    return f"({', '.join('?' if side is None else str(side) for side in shape)})"
