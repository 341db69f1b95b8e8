"""What a trained model, whoever trained it, does with images of other sizes: found by running it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import keras
import numpy as np
import tensorflow as tf
from scipy.stats import binomtest

from pipeline.common.condition import AS_IS, Mode
from pipeline.common.errors import first_line, require
from pipeline.common.size import Size, size_text
from pipeline.data.labelled import Labelled
from pipeline.data.tf_data import resize
from pipeline.heads.verdict import Verdict
from pipeline.models.predict import compiled
from pipeline.other_sizes.convert import Conversion, fixed_size
from pipeline.other_sizes.modes import MAKERS, canvas_places
from pipeline.other_sizes.seen import after_the_map, seen_pixels
from pipeline.other_sizes.settings import SizeProbe
from pipeline.other_sizes.ways.base import MapWay, Way

CONFIDENCE = 0.95
NO_CLASS = -1
"""Predicted where the outputs are no finite numbers."""


@dataclass(frozen=True)
class Pixels:
    """What a model gets of uint8 pixels: pixels · scale + offset."""

    scale: float = 1.0
    offset: float = 0.0


@dataclass(frozen=True)
class Score:
    """How many images are classified right.

    Attributes:
        right: Whether each is, bool (N,).
    """

    right: np.ndarray

    @property
    def accuracy(self) -> float:
        """Top-1 accuracy."""
        return float(self.right.mean())

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95 % interval of the accuracy over images like these."""
        found = binomtest(int(self.right.sum()), len(self.right)).proportion_ci(CONFIDENCE, method="wilson")
        return float(found.low), float(found.high)


@dataclass(frozen=True)
class ProbedSize:
    """What a model does at one image size.

    Attributes:
        size: Height and width of the images in pixels.
        verdict: What it does as it is.
        reason: One sentence for people.
        map_size: Height and width of its feature map in cells; None where it refuses, or the map was not recognised.
        seen_fraction: Share of the map's cells that can change the outputs; None where the map was not recognised.
        seen_pixels: Share of the image's pixels that can; 0.0 where it refuses.
        scores: By way, `AS_IS` too, and by mode; none where the way does not take images of this size.
    """

    size: Size
    verdict: Verdict
    reason: str
    map_size: Size | None
    seen_fraction: float | None
    seen_pixels: float
    scores: Mapping[str, Mapping[Mode, Score]] = field(default_factory=dict)


def outputs_of(conversion: Conversion) -> int:
    """How many outputs a model has at its training size: one a class."""
    model = conversion.model
    known = model.output_shape[-1]
    images = np.zeros((1, *conversion.size, model.input_shape[-1]), model.inputs[0].dtype)
    return int(known or model(images, training=False).shape[-1])


class Probe:
    """Runs a trained model, as it is and in ways, on labelled images made in each size.

    Args:
        conversion: The model, and the ways that it allows.
        images: At its training size.
        settings: Which sizes and ways, how many images in a batch.
        pixels: What the model gets of them.

    Raises:
        ConfigError: The model does not allow a way that was named, or wants integers and the pixels are scaled.
    """

    def __init__(self, conversion: Conversion, images: Labelled, settings: SizeProbe, pixels: Pixels) -> None:
        self._model, self._native, self._images = conversion.model, conversion.size, images
        self._parts, self._settings, self._pixels = conversion.parts, settings, pixels
        self._outputs, self._first = outputs_of(conversion), next(images.batches(1))
        dtype = self._model.inputs[0].dtype
        require(
            "float" in dtype or pixels == Pixels(),
            "scale" if pixels.scale != 1 else "offset",
            pixels.scale if pixels.scale != 1 else pixels.offset,
            f"the model takes {dtype}, which are the pixels as they are",
            "Leave scale and offset out.",
        )
        self._ways = _chosen(conversion.ways, settings.ways)
        self._of_images: dict[str, Callable[[tf.Tensor], tf.Tensor]] = {AS_IS: _as_keras(self._model)}
        self._of_maps: dict[str, Callable[[tf.Tensor], tf.Tensor]] = {}
        for way in self._ways.values():
            if isinstance(way, MapWay):
                assert self._parts is not None
                maps = keras.Input((None, None, self._parts.extractor.output_shape[-1]), dtype="float32")
                self._of_maps[way.name] = compiled(keras.Model(maps, way.outputs(maps, self._parts)))
            else:
                self._of_images[way.name] = compiled(way.convert(self._model, self._parts, self._native))
        self._extractor = None if self._parts is None else compiled(self._parts.extractor)

    @property
    def names(self) -> list[str]:
        """Of the ways, `AS_IS` first."""
        return [AS_IS, *self._ways]

    def sizes(self) -> list[ProbedSize]:
        """What the model does at each size, ascending."""
        sizes = self._settings.image_sizes(self._native)
        problems = {size: self._problem(size) for size in sizes}
        taken = [size for size in sizes if problems[size] is None]
        pixels = {size: float(seen.mean()) for size, seen in seen_pixels(self._model, taken).items()}
        maps = {size: self._map_size(size) for size in sizes}
        cells: dict[Size, float] = {}
        if self._parts is not None:
            head = after_the_map(self._model, self._parts)
            wanted = {map_size for size in taken if (map_size := maps[size]) is not None}
            cells = {size: float(seen.mean()) for size, seen in seen_pixels(head, wanted).items()}
        found = []
        for size in sizes:
            predicted = self._classes(size, maps[size], as_is=size in taken)
            scores = {
                way: {mode: Score(classes == self._images.labels) for mode, classes in by_mode.items()}
                for way, by_mode in predicted.items()
            }
            map_size = maps[size] or size
            counted = cells.get(map_size)
            if (problem := problems[size]) is not None:
                share = None if self._parts is None else 0.0
                found.append(ProbedSize(size, Verdict.REFUSES, problem, None, share, 0.0, scores))
                continue
            # Where no map was recognised, the image stands for it.
            share = pixels[size] if counted is None else counted
            same = map_size == (maps[self._native] or self._native)
            verdict = Verdict.CROPS if share < 1 else Verdict.NATIVE if same else Verdict.ADAPTS
            what = "image" if counted is None else f"{size_text(map_size)} feature map"
            reason = f"{share:.0%} of the {what} counts"
            found.append(ProbedSize(size, verdict, reason, maps[size], counted, pixels[size], scores))
        return found

    def _problem(self, size: Size) -> str | None:
        """Why Keras does not run the model, as it is, on an image of a size; None if it gives an output a class."""
        image = self._one(size)
        for run in (self._model, self._of_images[AS_IS]):
            try:
                outputs = run(image)
            except Exception as error:  # Each layer has its own way of refusing.
                only = fixed_size(self._model)
                return first_line(error) if only is None else f"the model is built for {size_text(only)} px"
            if reason := self._not_answers(outputs):
                return reason
        return None

    def _not_answers(self, outputs: tf.Tensor) -> str | None:
        if outputs.shape[-1] != self._outputs:
            return f"it gives {outputs.shape[-1]} outputs in place of {self._outputs}"
        return None if np.isfinite(outputs).all() else "the outputs are no finite numbers"

    def _one(self, size: Size) -> tf.Tensor:
        """The first image, resized, as the model gets it: (1, *size, C)."""
        return self._prepared(resize(self._first, size))

    def _map_size(self, size: Size) -> Size | None:
        """Height and width of the feature map in cells; None where there is none."""
        if self._extractor is None:
            return None
        try:
            shape = self._extractor(self._one(size)).shape
        except Exception:  # What the extractor does not take, the model does not take.
            return None
        return None if 0 in shape else (int(shape[1]), int(shape[2]))

    def _classes(self, size: Size, map_size: Size | None, as_is: bool) -> dict[str, dict[Mode, np.ndarray]]:
        """The class of each image, (N,), by way and mode; without the ways that do not take images of the size."""
        of_images = {name: run for name, run in self._of_images.items() if name != AS_IS or as_is}
        of_maps = {}
        if self._parts is not None and map_size is not None:
            for name, run in self._of_maps.items():
                way = self._ways[name]
                if way.refusal(self._parts.map_size, map_size) is None:
                    of_maps[name] = run
        found: dict[str, dict[Mode, list[np.ndarray]]] = {name: {} for name in (*of_images, *of_maps)}
        for mode, made in self._made(size, self._settings.batch_size_at(size, self._native)):
            prepared = self._prepared(made)
            for name, run in of_images.items():
                found[name].setdefault(mode, []).append(_largest(run(prepared)))
            if of_maps:
                assert self._extractor is not None
                maps = tf.cast(self._extractor(prepared), tf.float32)
                for name, run in of_maps.items():
                    found[name].setdefault(mode, []).append(_largest(run(maps)))
        whole = {
            name: {mode: np.concatenate(parts) for mode, parts in by_mode.items()} for name, by_mode in found.items()
        }
        if size == self._native:  # Both modes leave the images as they are.
            return {name: dict.fromkeys(Mode, by_mode[Mode.RESIZE]) for name, by_mode in whole.items()}
        return whole

    def _made(self, size: Size, batch_size: int) -> Iterator[tuple[Mode, np.ndarray | tf.Tensor]]:
        """The images made in each mode, uint8 (n, *size, C), batch by batch; at the training size in one mode alone."""
        tops, lefts = canvas_places(len(self._images.labels), self._native, size, self._settings.seed)
        start = 0
        for images in self._images.batches(batch_size):
            places = slice(start, start := start + len(images))
            for mode, make in MAKERS.items():
                if size != self._native:
                    yield mode, make(images, size, tops[places], lefts[places])
                elif mode is Mode.RESIZE:
                    yield mode, images

    def _prepared(self, images: np.ndarray | tf.Tensor) -> tf.Tensor:
        """What the model gets of uint8 images."""
        dtype = self._model.inputs[0].dtype
        if self._pixels == Pixels():
            return tf.cast(images, dtype)
        return tf.cast(tf.cast(images, tf.float32) * self._pixels.scale + self._pixels.offset, dtype)


def _chosen(ways: Mapping[str, Way], named: list[str] | None) -> dict[str, Way]:
    """The ways that are measured: all that the model allows, or those that are named."""
    if named is None:
        return dict(ways)
    for name in named:
        rule = f"{name} is not for this model, or needs more than it and images of the test"
        require(name in ways, "size_probe.ways", named, rule, f"Use some of {', '.join(ways)}, or [] for none.")
    return {name: way for name, way in ways.items() if name in named}


def _as_keras(model: keras.Model) -> tf.types.experimental.PolymorphicFunction:
    """The model's inference as one compiled function, of Keras's own operations alone."""

    @tf.function(input_signature=[tf.TensorSpec(model.input_shape, model.inputs[0].dtype)])
    def outputs(inputs: tf.Tensor) -> tf.Tensor:
        return model(inputs, training=False)

    return outputs


def _largest(outputs: tf.Tensor) -> np.ndarray:
    """The class of each image, (n,), of outputs (n, K)."""
    numbers = outputs.numpy()
    return np.where(np.isfinite(numbers).all(axis=1), numbers.argmax(axis=1), NO_CLASS)
