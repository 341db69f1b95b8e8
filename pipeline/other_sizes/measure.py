"""What does happen at each image size, measured on a trained model."""

from __future__ import annotations

import logging
import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TypeAlias

import keras
import numpy as np
import tensorflow as tf

from pipeline.common.condition import AS_IS, Mode
from pipeline.common.errors import UserError
from pipeline.common.size import Size, size_text
from pipeline.data.batches import Data
from pipeline.heads.base import Head
from pipeline.heads.verdict import Verdict
from pipeline.models.backbones.base import ImageSizeError
from pipeline.models.class_activation import class_activations
from pipeline.models.features import FeatureMaps
from pipeline.models.predict import compiled
from pipeline.models.scores import calibration_error, confidences
from pipeline.other_sizes.gradient import seen_cells
from pipeline.other_sizes.made_maps import MadeMaps
from pipeline.other_sizes.parts import NotRecognizedError, Parts
from pipeline.other_sizes.plan import ContractError, PlannedSize, SizePlan
from pipeline.other_sizes.pointing import Pointing
from pipeline.other_sizes.refit import cut_before_last_dense
from pipeline.other_sizes.refit_sizes import RefittedHeads
from pipeline.other_sizes.settings import SizeProbe
from pipeline.other_sizes.take_apart import take_apart
from pipeline.other_sizes.ways import REFITS, ways_for
from pipeline.other_sizes.ways.base import MapWay

log = logging.getLogger("pipeline")

ByMode: TypeAlias = Mapping[Mode, Callable[[np.ndarray], tf.Tensor]]
"""The logits of feature maps of images that were made in each mode."""

Predicted: TypeAlias = tuple[np.ndarray, np.ndarray]
"""The class of each image, int (N,), and the model's probability of it, (N,)."""


@dataclass(frozen=True)
class Predictions:
    """What a model predicts at one image size, run in one way.

    Attributes:
        classes: The class of each test image, (N,), by the mode in which the images were made; none if it is refused.
        accuracies: Top-1 accuracy likewise.
        calibration_errors: Likewise, see `models.scores.expected_calibration_error`.
    """

    classes: Mapping[Mode, np.ndarray] = field(default_factory=dict)
    accuracies: Mapping[Mode, float] = field(default_factory=dict)
    calibration_errors: Mapping[Mode, float] = field(default_factory=dict)

    @classmethod
    def of(cls, predicted: Mapping[Mode, Predicted], labels: np.ndarray) -> Predictions:
        """The predictions with what they are worth against labels (N,)."""
        right = {mode: classes == labels for mode, (classes, _) in predicted.items()}
        return cls(
            {mode: classes for mode, (classes, _) in predicted.items()},
            {mode: float(np.mean(right[mode])) for mode in predicted},
            {mode: calibration_error(confidence, right[mode]) for mode, (_, confidence) in predicted.items()},
        )

    def accuracy(self, mode: Mode) -> float:
        """Top-1 accuracy; NaN if the size is refused."""
        return self.accuracies.get(mode, math.nan)

    def calibration_error(self, mode: Mode) -> float:
        """Expected calibration error; NaN if the size is refused."""
        return self.calibration_errors.get(mode, math.nan)


@dataclass(frozen=True)
class MeasuredSize:
    """What did happen at one image size.

    Attributes:
        size: Height and width of the image in pixels.
        map_size: Height and width of the feature map in cells; None where the backbone leaves none.
        verdict: What the trained head did.
        seen_fraction: Share of the map's cells that can change the logits, by gradient; 0.0 if refused.
        seen_pixels: Share of the image's pixels that can, through these cells; 0.0 if refused.
        reason: One sentence for people.
        as_is: Predictions of the model as it is.
        ways: Predictions of the model run in each way of `pipeline.other_sizes.ways` that its head allows, by name.
        pointing: Share of test images on a canvas whose true class has its peak on the image, see `Pointing`; NaN where
            that is not measured: at sizes that are not larger than the training size, and of heads that are not linear.
        seen: The pixels that `seen_pixels` is the share of, bool (*size); None if refused.
    """

    size: Size
    map_size: Size | None
    verdict: Verdict
    seen_fraction: float
    seen_pixels: float
    reason: str
    as_is: Predictions = Predictions()
    ways: Mapping[str, Predictions] = field(default_factory=dict)
    pointing: float = math.nan
    seen: np.ndarray | None = field(default=None, compare=False)

    @property
    def predictions(self) -> dict[str, Predictions]:
        """Of the model as it is, under `AS_IS`, and of the ways."""
        return {AS_IS: self.as_is, **self.ways}


def measure_sizes(
    model: keras.Model,
    plan: SizePlan,
    probe: SizeProbe,
    data: Data,
    test_logits: np.ndarray,
    test_labels: np.ndarray,
    features: FeatureMaps | None = None,
) -> list[MeasuredSize]:
    """What the trained model does at each probed size.

    The head is rebuilt at each size and the trained weights are copied into it. A refusal to be built and a refusal
    to take the weights are answers; any other exception is a bug and passes through.

    Args:
        model: The trained model, as `build_model` made it.
        plan: Of the model's backbone and head.
        probe: Which sizes, how many images.
        data: Where the test images come from.
        test_logits: The model's logits (N, K) on the test split at the training size.
        test_labels: Its labels (N,).
        features: Where its backbone's feature maps are kept; None computes them.

    Raises:
        UserError: The training has left nothing of a kernel of the head.
        ContractError: A rebuilt model answers with something else than finite numbers.
    """
    _check_kernels(model.get_layer("head"))
    measurement = _Measurement(model, plan, probe, data, test_logits, test_labels, features)
    return [measurement.at(size) for size in probe.image_sizes(data.facts.image_size)]


def _check_kernels(head: keras.Model) -> None:
    """Raises `UserError` if a kernel holds nothing but zeros: no cell of a map counts then, whatever the head is."""
    for weight in head.trainable_weights:
        if weight.name.endswith("kernel") and not np.any(weight.numpy()):
            raise UserError(
                f"All numbers of {weight.path} are 0 after the training: the logits no longer depend on the image. Use "
                "a smaller training.weight_decay or training.learning_rate."
            )


class _Measurement:
    """A trained model, what is made of it, and the test images; functions are traced once for all image sizes."""

    def __init__(
        self,
        model: keras.Model,
        plan: SizePlan,
        probe: SizeProbe,
        data: Data,
        test_logits: np.ndarray,
        test_labels: np.ndarray,
        features: FeatureMaps | None,
    ) -> None:
        self._plan, self._data = plan, data
        shown = np.arange(len(data.test_split))[: probe.max_images]
        self._maps = MadeMaps(data.test_split, shown, plan, probe, features)
        self._backbone, self._head = model.get_layer("backbone"), model.get_layer("head")
        self._labels = test_labels[: probe.max_images]
        self._native = _predicted(test_logits[: probe.max_images])
        self._activations = class_activations(self._head)
        # What makes a feature map of images: the backbone, or a way that changes the images for it.
        self._extractors = {AS_IS: compiled(self._backbone)}
        parts: Parts | None = None
        with suppress(NotRecognizedError):
            parts = take_apart(self._head, plan.native_map)  # The feature map is what the head takes for images.
        self._parts = parts
        self._on_maps: dict[str, tuple[MapWay, Callable[[np.ndarray], tf.Tensor]]] = {}
        self._on_images: dict[str, Callable[[np.ndarray], tf.Tensor]] = {}
        native_head = compiled(self._head)
        for way in ways_for(parts):
            if probe.ways is not None and way.name not in probe.ways:
                continue
            if isinstance(way, MapWay):
                converted_head = way.convert(self._head, parts, plan.native_map)
                self._on_maps[way.name] = (way, compiled(converted_head))
            else:
                self._extractors[way.name] = compiled(way.convert(self._backbone, None, data.facts.image_size))
                self._on_images[way.name] = native_head
        self._of_any_size: keras.Model | None = None
        self._refitted: RefittedHeads | None = None
        self._refits = [way for way in REFITS if way.name in (probe.ways or ())]
        if self._refits:
            try:
                cut = cut_before_last_dense(self._head, plan.native_map)
            except NotRecognizedError as error:
                log.info("  %s left out: %s", ", ".join(way.name for way in self._refits), error)
                self._refits = []
            else:
                extract = self._extractors[AS_IS]
                self._refitted = RefittedHeads(cut, self._refits, extract, data, plan, probe, features)

    @property
    def ways(self) -> list[str]:
        """Names of the ways that are measured."""
        return [*self._on_images, *self._on_maps, *(way.name for way in self._refits)]

    def at(self, size: Size) -> MeasuredSize:
        """What the model does with images of a size in pixels."""
        facts, native_map = self._data.facts, self._plan.native_map
        map_shape, rebuilt, verdict, seen_fraction, seen_pixels = None, None, Verdict.REFUSES, 0.0, 0.0
        seen: np.ndarray | None = None
        pointing: Pointing | None = None
        heads: dict[str, ByMode] = {}
        try:
            map_shape = self._plan.geometry.map_shape(size)
            heads = self._heads_for(map_shape)
            rebuilt = self._rebuilt(map_shape)
            heads[AS_IS] = dict.fromkeys(Mode, compiled(rebuilt))
        except (ImageSizeError, ValueError) as error:
            reason = str(error)
        if rebuilt is not None and map_shape is not None:
            cells = seen_cells(rebuilt, map_shape)
            seen = self._plan.geometry.seen_pixels(cells, size)
            seen_fraction, seen_pixels = float(cells.mean()), float(seen.mean())
            whole = Verdict.NATIVE if map_shape[:2] == native_map else Verdict.ADAPTS
            verdict = whole if seen_fraction == 1 else Verdict.CROPS
            reason = f"{seen_fraction:.0%} of the {size_text(map_shape[:2])} feature map counts"
            pointing = self._pointing(rebuilt, size)
        refitted = self._refitted.at(size) if self._refitted else {}
        if size == facts.image_size and not facts.natural:
            same = Predictions.of(dict.fromkeys(Mode, self._native), self._labels)
            predictions = dict.fromkeys([AS_IS, *self.ways], same) | self._predict(refitted, size, on_images=False)
        else:
            predictions = self._predict(heads | refitted, size, pointing=pointing)
        return MeasuredSize(
            size=size,
            map_size=map_shape[:2] if map_shape else None,
            verdict=verdict,
            seen_fraction=seen_fraction,
            seen_pixels=seen_pixels,
            reason=reason,
            as_is=predictions.get(AS_IS, Predictions()),
            ways={name: predictions.get(name, Predictions()) for name in self.ways},
            pointing=pointing.share if pointing else math.nan,
            seen=seen,
        )

    def _rebuilt(self, map_shape: tuple[int, int, int]) -> keras.Model:
        """The head for another map, see `rebuild`; one for maps of any size is built once for all of them."""
        if self._of_any_size is not None:
            return self._of_any_size
        rebuilt = rebuild(self._plan.head, self._head, map_shape, self._plan.native_map)
        if self._plan.head.takes_any_size:
            self._of_any_size = rebuilt
        return rebuilt

    def _heads_for(self, map_shape: tuple[int, int, int]) -> dict[str, ByMode]:
        """The converted heads that take a feature map of shape (H, W, F), by the names of their ways."""
        if self._parts is None:
            return {}
        size = self._parts.extractor.compute_output_shape((None, *map_shape))[1:3]
        return {
            name: dict.fromkeys(Mode, logits_of)
            for name, (way, logits_of) in self._on_maps.items()
            if way.refusal(self._parts.map_size, size) is None
        }

    def _pointing(self, rebuilt: keras.Model, size: Size) -> Pointing | None:
        """What looks where the peaks of the head as it is, `rebuilt` for a size, lie; None if nothing does."""
        facts, head = self._data.facts, self._plan.head
        larger = size != facts.image_size and all(np.greater_equal(size, facts.image_size))
        if facts.natural or not larger or not head.is_linear:
            return None
        # Of a head for any size, one function is traced for all sizes.
        activations = self._activations if head.takes_any_size else class_activations(rebuilt)
        places = self._maps.places(size)
        return Pointing(activations, self._labels[self._maps.order], places, facts.image_size, size)

    def _predict(
        self, heads: Mapping[str, ByMode], size: Size, on_images: bool = True, pointing: Pointing | None = None
    ) -> dict[str, Predictions]:
        """What each head, and if asked each way that changes the images, predicts for test images made in each mode.

        The maps of the images on a canvas are shown to `pointing`, too.
        """
        behind: dict[str, dict[str, ByMode]] = {}
        if on_images:
            behind = {name: {name: dict.fromkeys(Mode, logits_of)} for name, logits_of in self._on_images.items()}
        if heads:
            behind[AS_IS] = dict(heads)  # All of them share one pass through the backbone.
        if not behind:
            return {}
        predicted: dict[str, dict[Mode, list[Predicted]]] = defaultdict(lambda: defaultdict(list))
        extractors = {name: self._extractors[name] for name in behind}
        for extractor, mode, feature_map in self._maps.of(extractors, size):
            if pointing is not None and (extractor, mode) == (AS_IS, Mode.CANVAS):
                pointing.add(feature_map)
            for name, logits_of in behind[extractor].items():
                logits = logits_of[mode](feature_map).numpy()
                if not np.isfinite(logits).all():
                    raise ContractError(
                        f"{name or 'the model'} answers {size_text(size)} px images with logits that are not finite"
                    )
                predicted[name][mode].append(_predicted(logits))
        back = np.argsort(self._maps.order)
        return {
            name: Predictions.of({mode: _joined(batches, back) for mode, batches in by_mode.items()}, self._labels)
            for name, by_mode in predicted.items()
        }


def _predicted(logits: np.ndarray) -> Predicted:
    return logits.argmax(axis=1), confidences(logits)


def _joined(batches: Sequence[Predicted], order: np.ndarray) -> Predicted:
    """What was predicted for all images, batch by batch, in an order, (N,)."""
    classes, confidence = (np.concatenate(parts)[order] for parts in zip(*batches, strict=True))
    return classes, confidence


def rebuild(head: Head, trained: keras.Model, map_shape: tuple[int, int, int], native: Size) -> keras.Model:
    """Builds a head for another map and copies the trained weights into it.

    Args:
        head: The head's configuration.
        trained: The head that was trained.
        map_shape: (H, W, C) of the other map.
        native: Height and width of the map that `trained` was made for.

    Raises:
        ValueError: It cannot be built, or the weights do not fit.
    """
    rebuilt = head.build(map_shape, trained.output_shape[-1], trained_on=native)
    rebuilt.set_weights(trained.get_weights())
    for before, after in zip(trained.layers, rebuilt.layers, strict=True):
        # 4×5 cells fit a kernel trained on 5×4 cells, each at another's place.
        if isinstance(after, keras.layers.Flatten) and before.input.shape != after.input.shape:
            raise ValueError(f"the weights belong to cells of {before.input.shape}, not of {after.input.shape}")
    return rebuilt


def check_plan(head: Head, planned: Sequence[PlannedSize], measured: Sequence[MeasuredSize]) -> None:
    """Raises `ContractError` unless what was measured is what was planned."""
    for plan, measurement in zip(planned, measured, strict=True):
        same = (plan.size, plan.map_size, plan.verdict) == (measurement.size, measurement.map_size, measurement.verdict)
        shares = (plan.seen_fraction, measurement.seen_fraction), (plan.seen_pixels, measurement.seen_pixels)
        if not same or not all(math.isclose(*of_one) for of_one in shares):
            raise ContractError(
                f"head={head.name} at {size_text(plan.size)} px: planned {plan.verdict.value} with "
                f"{plan.seen_fraction:.4f} of the map and {plan.seen_pixels:.4f} of the image seen ({plan.reason}), "
                f"measured {measurement.verdict.value} with {measurement.seen_fraction:.4f} and "
                f"{measurement.seen_pixels:.4f} ({measurement.reason})"
            )
