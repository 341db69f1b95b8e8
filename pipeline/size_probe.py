"""What happens at other image sizes: planned before training, measured after it, and held against each other."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from pipeline.backbones import Backbone, ImageSizeError
from pipeline.data import Data, DatasetFacts, resize
from pipeline.errors import ConfigError, UserError, is_side, require, require_at_least
from pipeline.evaluation import inference
from pipeline.heads import HEADS, Head, Size, Verdict, of_shape, size_text
from pipeline.size_transfer import (
    RESIZE_INPUT,
    WAY_RULES,
    NotRecognizedError,
    Parts,
    Way,
    resize_input,
    take_apart,
    ways_for,
)

if TYPE_CHECKING:
    import keras
    import tensorflow as tf

GRADIENT_IMAGES = 16
"""Feature maps whose gradients are taken together; a cell counts as seen if it matters for any of them."""


AS_IS = "as_is"
"""The model as it was trained, beside the ways of `pipeline.size_transfer`."""


class ContractError(Exception):
    """A head did something else than it declares: a bug of this program, never the user's mistake."""


@dataclass
class SizeProbe:
    """Which image sizes are probed, and how.

    Attributes:
        scales: Sizes as multiples of the training size; with natural sizes, of the reference `dataset.image_size`.
        sizes: Heights in pixels instead of `scales`; widths keep the shape of the training images. null uses `scales`.
        max_images: Test images measured at each size; null for all of them.
        batch_size: Images in a batch at the training size; larger images come in smaller batches of as many pixels.
        seed: Draws where each image lies on the canvas, the same for every run.
        ways: Names of the ways to run the trained model at other sizes (see `pipeline.size_transfer`) that are measured
            beside the model as it is; null for all that its head allows, [] for none.
    """

    scales: list[float] = field(default_factory=lambda: [0.5, 0.75, 0.875, 1.0, 1.25, 1.5, 1.75, 2.0])
    sizes: list[int] | None = None
    max_images: int | None = None
    batch_size: int = 256
    seed: int = 0
    ways: list[str] | None = None

    def __post_init__(self) -> None:
        require(
            len(self.scales) > 0 and all(0 < scale <= 16 for scale in self.scales),
            "size_probe.scales",
            self.scales,
            "needs at least one scale, and each must lie in (0, 16]",
            "Use for example size_probe.scales=[0.5,1,2].",
        )
        require(
            self.sizes is None or (len(self.sizes) > 0 and all(map(is_side, self.sizes))),
            "size_probe.sizes",
            self.sizes,
            "must be null or hold at least one height, each from 1 to 65,535 px",
            "Use for example size_probe.sizes=[20,28,40], or null to use size_probe.scales.",
        )
        require_at_least(1, "size_probe.max_images", 1 if self.max_images is None else self.max_images, 1000)
        require_at_least(1, "size_probe.batch_size", self.batch_size, 256)
        require_at_least(0, "size_probe.seed", self.seed, 0)
        require(
            set(self.ways or []) <= set(WAY_RULES),
            "size_probe.ways",
            self.ways,
            f"must be null or a list of {', '.join(WAY_RULES)}",
            "Use for example size_probe.ways=[resize_input], or [] for none.",
        )

    def image_sizes(self, native: Size) -> list[Size]:
        """Sizes (height, width) in pixels to probe, ascending, the training size `native` always among them."""
        heights = self.sizes or [round(native[0] * scale) for scale in self.scales]
        return sorted({of_shape(native, side) for side in heights if side >= 1} | {native})


@dataclass(frozen=True)
class PlannedSize:
    """What will happen at one image size, known before training.

    Attributes:
        size: Height and width of the image in pixels.
        map_size: Height and width of the feature map in cells; None where the backbone leaves none.
        collapsed: Height and width that the head leaves for its Dense layers; None like `map_size`.
        verdict: What the head, trained at the training size, does here.
        seen_fraction: Share of the map's cells that can change the logits, by gradient; 0.0 if refused.
        parameters: Parameters of a model built for this size from scratch; None where none can be built.
        reason: One sentence for people.
    """

    size: Size
    map_size: Size | None
    collapsed: Size | None
    verdict: Verdict
    seen_fraction: float
    parameters: int | None
    reason: str


@dataclass(frozen=True)
class Answers:
    """What a model answered at one image size, run in one way.

    Attributes:
        resized: Class predicted for each test image resized to this size, (N,); None if refused.
        on_canvas: Class predicted for each test image laid on a canvas of this size, (N,); None if refused.
        resize_accuracy: Top-1 accuracy on resized test images; NaN if refused.
        canvas_accuracy: Top-1 accuracy on test images laid on a canvas; NaN if refused.
    """

    resized: np.ndarray | None = None
    on_canvas: np.ndarray | None = None
    resize_accuracy: float = math.nan
    canvas_accuracy: float = math.nan

    @classmethod
    def of(cls, resized: np.ndarray, on_canvas: np.ndarray, labels: np.ndarray) -> Answers:
        """The answers with their accuracies against labels (N,)."""
        return cls(resized, on_canvas, float(np.mean(resized == labels)), float(np.mean(on_canvas == labels)))


@dataclass(frozen=True)
class MeasuredSize:
    """What did happen at one image size.

    Attributes:
        size: Height and width of the image in pixels.
        map_size: Height and width of the feature map in cells; None where the backbone leaves none.
        verdict: What the trained head did.
        seen_fraction: Share of the map's cells that can change the logits, by gradient; 0.0 if refused.
        reason: One sentence for people.
        answers: Of the model as it is.
        ways: Answers of the model run in each way of `pipeline.size_transfer` that its head allows, by name.
    """

    size: Size
    map_size: Size | None
    verdict: Verdict
    seen_fraction: float
    reason: str
    answers: Answers = Answers()
    ways: Mapping[str, Answers] = field(default_factory=dict)


def plan_sizes(backbone: Backbone, head: Head, probe: SizeProbe, facts: DatasetFacts) -> list[PlannedSize]:
    """What the head will do at each probed size, without training anything.

    Raises:
        ImageSizeError: The backbone cannot take the training images.
        ConfigError: The head cannot be made for the feature map of the training images.
        ContractError: The head declares another seen fraction than its gradient has.
    """
    extractor = backbone.build(facts.channels)
    native_map = backbone.map_shape(extractor, facts.image_size)
    head.check(native_map[:2])
    return [
        _plan_size(backbone, extractor, head, native_map[:2], size, facts.classes)
        for size in probe.image_sizes(facts.image_size)
    ]


def check_training_sizes(backbone: Backbone, head: Head, heights: Sequence[int], facts: DatasetFacts) -> None:
    """Raises `ConfigError` unless a model with this head can be trained at each height in pixels."""
    if not heights:
        return
    extractor = backbone.build(facts.channels)
    native_map = backbone.map_shape(extractor, facts.image_size)[:2]
    plans = [
        _plan_size(backbone, extractor, head, native_map, of_shape(facts.image_size, height), facts.classes)
        for height in sorted(heights)
    ]
    refused = [
        f"at {size_text(plan.size)} px, "
        + (
            plan.reason.rstrip(".")
            if plan.seen_fraction < 1
            else f"its model is built for {size_text(facts.image_size)} px alone"
        )
        for plan in plans
        if plan.map_size is None or not (head.takes_any_size or plan.size == facts.image_size)
    ]
    require(
        not refused,
        "training.sizes",
        list(heights),
        f"head={head.name} on {backbone.name} has to take every one of them in training. But {'; '.join(refused)}",
        f"Use head={_any_size_head().name} or another head for images of any size, larger sizes, or null.",
    )


def _any_size_head() -> type[Head]:
    return next(option for option in HEADS if option.takes_any_size)


def _plan_size(
    backbone: Backbone, extractor: keras.Model, head: Head, native: Size, size: Size, classes: int
) -> PlannedSize:
    try:
        map_shape = backbone.map_shape(extractor, size)
    except ImageSizeError as error:
        return PlannedSize(size, None, None, Verdict.REFUSES, 0.0, None, str(error))
    contract = head.contract(native, map_shape[:2])
    if contract.verdict is not Verdict.REFUSES:
        _check_memory(map_shape, size)
        maps = np.random.default_rng(0).random((GRADIENT_IMAGES, *map_shape), np.float32)
        seen_fraction = seen_fraction_of(head.build(map_shape, classes, trained_on=native), maps)
        if not math.isclose(seen_fraction, contract.seen_fraction):
            raise ContractError(
                f"head={head.name} declares that {contract.seen_fraction:.4f} of a {size_text(map_shape[:2])} map "
                f"counts; its gradient says {seen_fraction:.4f}"
            )
    try:
        parameters = extractor.count_params() + head.parameters(map_shape, classes)
    except ConfigError:  # A window of fixed size that is larger than this map.
        parameters = None
    return PlannedSize(
        size=size,
        map_size=map_shape[:2],
        collapsed=contract.collapsed,
        verdict=contract.verdict,
        seen_fraction=contract.seen_fraction,
        parameters=parameters,
        reason=contract.reason,
    )


def _check_memory(map_shape: tuple[int, int, int], size: Size) -> None:
    """Raises `UserError` if `seen_fraction_of` has no room for maps (H, W, C) of images of `size` px."""
    import psutil

    rows, columns, channels = map_shape
    maps = max(GRADIENT_IMAGES, math.ceil(rows * columns / channels))
    # Twice what it is given, their gradients, and what the head makes of them on the way.
    needed, available = 4 * maps * math.prod(map_shape) * 4, psutil.virtual_memory().available
    if needed > available:
        raise UserError(
            f"Images of {size_text(size)} px are too large: to see which cells of their {size_text((rows, columns))} "
            f"feature map count takes {needed / 1e9:,.1f} GB, {available / 1e9:.1f} GB are free. Use smaller sizes in "
            "dataset.image_size, training.sizes, size_probe.sizes or size_probe.scales, or more strides."
        )


def measure_sizes(
    model: keras.Model,
    backbone: Backbone,
    head: Head,
    probe: SizeProbe,
    data: Data,
    test_logits: np.ndarray,
    test_labels: np.ndarray,
) -> list[MeasuredSize]:
    """What the trained model does at each probed size.

    The head is rebuilt at each size and the trained weights are copied into it. A refusal to be built and a refusal
    to take the weights are answers; any other exception is a bug and passes through.

    Args:
        model: The trained model, as `build_model` made it.
        backbone: The configuration of its extractor.
        head: The configuration of its head.
        probe: Which sizes, how many images.
        data: Where the test images come from.
        test_logits: The model's logits (N, K) on the test split at the training size.
        test_labels: Its labels (N,).

    Raises:
        ContractError: A rebuilt model answers with something else than finite numbers.
    """
    native_map = backbone.map_shape(model.get_layer("backbone"), data.facts.image_size)[:2]
    native_classes, labels = test_logits.argmax(axis=1)[: probe.max_images], test_labels[: probe.max_images]
    networks = _Networks(model, native_map, data.facts.image_size, probe.ways)
    return [
        _measure_size(networks, backbone, head, probe, data, native_classes, labels, native_map, size)
        for size in probe.image_sizes(data.facts.image_size)
    ]


class _Networks:
    """A trained model and what is made of it, as functions that are traced once for all image sizes."""

    def __init__(self, model: keras.Model, native_map: Size, image_size: Size, wanted: list[str] | None) -> None:
        self.backbone, self.head = model.get_layer("backbone"), model.get_layer("head")
        self._extract = inference(self.backbone)
        self.converted: dict[str, tuple[Way, Parts, Callable[[np.ndarray], tf.Tensor]]] = {}
        self.resizing = None
        if wanted is None or RESIZE_INPUT in wanted:
            self.resizing = inference(resize_input(model, image_size))
        try:
            parts = take_apart(self.head, native_map)  # The feature map is what the head takes for images.
        except NotRecognizedError:
            return
        for way in ways_for(parts):
            if wanted is None or way.name in wanted:
                self.converted[way.name] = (way, parts, inference(way.convert(parts)))

    def features_of(self, images: np.ndarray | tf.Tensor) -> tf.Tensor:
        """The feature map float32 (N, h, w, F) of uint8 images (N, H, W, C)."""
        import tensorflow as tf

        return tf.cast(self._extract(images), tf.float32)  # It is shorter under mixed precision.

    @property
    def ways(self) -> list[str]:
        """Names of the ways that are measured."""
        return [*([RESIZE_INPUT] if self.resizing else []), *self.converted]

    def heads_for(self, map_shape: tuple[int, int, int]) -> dict[str, Callable[[np.ndarray], tf.Tensor]]:
        """The converted heads that take a feature map of shape (H, W, F)."""
        return {
            name: logits_of
            for name, (way, parts, logits_of) in self.converted.items()
            if way.refusal(parts.map_size, parts.extractor.compute_output_shape((None, *map_shape))[1:3]) is None
        }


def _measure_size(
    networks: _Networks,
    backbone: Backbone,
    head: Head,
    probe: SizeProbe,
    data: Data,
    native_classes: np.ndarray,
    labels: np.ndarray,
    native_map: Size,
    size: Size,
) -> MeasuredSize:
    map_shape, rebuilt = None, None
    heads: dict[str, Callable[[np.ndarray], tf.Tensor]] = {}
    try:
        map_shape = backbone.map_shape(networks.backbone, size)
        heads = networks.heads_for(map_shape)
        rebuilt = rebuild(head, networks.head, map_shape, native_map)
        heads[AS_IS] = inference(rebuilt)
    except (ImageSizeError, ValueError) as error:
        reason = str(error)

    verdict, seen_fraction = Verdict.REFUSES, 0.0
    if rebuilt is not None and map_shape is not None:
        images, _ = next(data.test(GRADIENT_IMAGES).as_numpy_iterator())
        seen_fraction = seen_fraction_of(rebuilt, networks.features_of(resize(images, size)).numpy())
        whole = Verdict.NATIVE if map_shape[:2] == native_map else Verdict.ADAPTS
        verdict = whole if seen_fraction == 1 else Verdict.CROPS
        reason = f"{seen_fraction:.0%} of the {size_text(map_shape[:2])} feature map counts"
    if size == data.facts.image_size and not data.facts.natural:
        same = Answers.of(native_classes, native_classes, labels)
        answers = dict.fromkeys([AS_IS, *networks.ways], same)
    else:
        answers = _answer(networks, heads, probe, data, labels, size)
    return MeasuredSize(
        size=size,
        map_size=map_shape[:2] if map_shape else None,
        verdict=verdict,
        seen_fraction=seen_fraction,
        reason=reason,
        answers=answers.get(AS_IS, Answers()),
        ways={name: answers.get(name, Answers()) for name in networks.ways},
    )


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
    import keras

    rebuilt = head.build(map_shape, trained.output_shape[-1], trained_on=native)
    rebuilt.set_weights(trained.get_weights())
    for before, after in zip(trained.layers, rebuilt.layers, strict=True):
        # 4×5 cells fit a kernel trained on 5×4 cells, each at another's place.
        if isinstance(after, keras.layers.Flatten) and before.input.shape != after.input.shape:
            raise ValueError(f"the weights belong to cells of {before.input.shape}, not of {after.input.shape}")
    return rebuilt


def _answer(
    networks: _Networks,
    heads: Mapping[str, Callable[[np.ndarray], tf.Tensor]],
    probe: SizeProbe,
    data: Data,
    labels: np.ndarray,
    size: Size,
) -> dict[str, Answers]:
    """What each head says to resized test images and to test images laid on a canvas, and what `resize_input` says."""
    height, width = data.facts.image_size
    order = data.test_order(probe.max_images)
    # As many pixels as a batch at the training size, so that memory stays bounded.
    batch_size = max(1, min(probe.batch_size, probe.batch_size * height * width // (size[0] * size[1])))
    tops, lefts = canvas_places(len(data.test_split), data.test_split.size, size, probe.seed)
    said: dict[tuple[str, str], list[np.ndarray]] = defaultdict(list)

    def note(name: str, mode: str, logits: tf.Tensor) -> None:
        if not np.isfinite(logits.numpy()).all():
            raise ContractError(f"{name} answers {size_text(size)} px images with logits that are not finite")
        said[name, mode].append(logits.numpy().argmax(axis=1))

    start = 0
    for images, _ in data.test(batch_size, probe.max_images).as_numpy_iterator():
        batch = order[start : (start := start + len(images))]
        made = {"resize": resize(images, size), "canvas": lay_on_canvas(images, size, tops[batch], lefts[batch])}
        for mode, other in made.items():
            if heads:
                feature_map = networks.features_of(other)  # All heads share one pass through the backbone.
                for name, logits_of in heads.items():
                    note(name, mode, logits_of(feature_map))
            if networks.resizing:
                note(RESIZE_INPUT, mode, networks.resizing(other))
    back = np.argsort(order)
    names = {name for name, _ in said}
    return {
        name: Answers.of(np.concatenate(said[name, "resize"])[back], np.concatenate(said[name, "canvas"])[back], labels)
        for name in names
    }


def canvas_places(
    count: int, native: Size | tuple[np.ndarray, np.ndarray], size: Size, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Where each of `count` images of `native` px lies on a canvas of `size` px: its top row and its left column.

    A function of the seed and the sizes alone, so that it is the same for every head and every batch size.
    """
    generator = np.random.default_rng([seed, *size])
    rows, columns = np.maximum(size[0] - native[0], 0), np.maximum(size[1] - native[1], 0)
    return (
        generator.integers(0, rows, count, endpoint=True),
        generator.integers(0, columns, count, endpoint=True),
    )


def lay_on_canvas(images: np.ndarray, size: Size, tops: np.ndarray, lefts: np.ndarray) -> np.ndarray:
    """Puts images on a black canvas at the same scale, or cuts out their centre where the canvas is smaller.

    Args:
        images: uint8 (N, H, W, C).
        size: Height and width of the canvas in pixels.
        tops: Row of the canvas where each image begins, (N,).
        lefts: Column of the canvas where each image begins, (N,).

    Returns:
        uint8 (N, *size, C).
    """
    count, height, width, channels = images.shape
    rows, columns = min(height, size[0]), min(width, size[1])
    top, left = (height - rows) // 2, (width - columns) // 2
    centres = images[:, top : top + rows, left : left + columns]
    canvas = np.zeros((count, *size, channels), np.uint8)
    for index, (y, x) in enumerate(zip(tops, lefts, strict=True)):
        canvas[index, y : y + rows, x : x + columns] = centres[index]
    return canvas


def check_plan(head: Head, planned: list[PlannedSize], measured: list[MeasuredSize]) -> None:
    """Raises `ContractError` unless what was measured is what was planned."""
    for plan, measurement in zip(planned, measured, strict=True):
        same = (plan.size, plan.map_size, plan.verdict) == (measurement.size, measurement.map_size, measurement.verdict)
        if not same or not math.isclose(plan.seen_fraction, measurement.seen_fraction):
            raise ContractError(
                f"head={head.name} at {size_text(plan.size)} px: planned {plan.verdict.value} with "
                f"{plan.seen_fraction:.4f} of the map seen ({plan.reason}), measured {measurement.verdict.value} with "
                f"{measurement.seen_fraction:.4f} ({measurement.reason})"
            )


def seen_fraction_of(head: keras.Model, maps: np.ndarray) -> float:
    """Share of the cells of feature maps (N, H, W, C) that can change the logits.

    By gradient of what the first Dense layer makes of them, which without hidden layers is the logits. It is taken
    before any ReLU: a unit that happens to be off says nothing about which cells it looks at. Each cell has its turn at
    being a channel's largest, because a maximum has a gradient at one cell only.
    """
    import keras
    import tensorflow as tf

    dense = next(layer for layer in head.layers if isinstance(layer, keras.layers.Dense))
    collapse = keras.Model(head.input, dense.input)
    feature_maps = tf.constant(_with_peaks(maps))
    with tf.GradientTape() as tape:
        tape.watch(feature_maps)
        outputs = tf.matmul(tf.cast(collapse(feature_maps, training=False), tf.float32), dense.kernel)
        # Random signs and weights, so that a cell's gradients do not cancel over the outputs.
        total = tf.reduce_sum(outputs * tf.random.stateless_normal(outputs.shape, seed=(0, 0)))
    gradient = tape.gradient(total, feature_maps)
    return float(np.mean(np.any(gradient.numpy() != 0, axis=(0, 3))))


def _with_peaks(maps: np.ndarray) -> np.ndarray:
    """Feature maps (N, H, W, C), repeated until each of the H·W cells stands out in one channel of one map."""
    count, rows, columns, channels = maps.shape
    cell = np.arange(rows * columns)
    peaked = maps[np.arange(max(count, math.ceil(len(cell) / channels))) % count]
    peaked[cell // channels, cell // columns, cell % columns, cell % channels] = 2 * abs(maps).max() + 1
    return peaked
