"""What will happen at each image size, known before training."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import numpy as np

from pipeline.common.errors import ConfigError, require
from pipeline.common.size import Size, of_shape, size_text
from pipeline.data.batches import Data
from pipeline.data.facts import DatasetFacts
from pipeline.data.natural_sizes import NaturalSplit
from pipeline.heads import HEADS
from pipeline.heads.base import MEAN, Head
from pipeline.heads.verdict import Verdict
from pipeline.models.backbones.base import Backbone, ImageSizeError, ImageTooSmallError
from pipeline.models.geometry import Geometry, geometry_of
from pipeline.other_sizes.gradient import seen_cells
from pipeline.other_sizes.settings import SizeProbe

LARGEST_MAP = 2**28
"""Numbers in the largest feature map that is planned: 1.1 GB, and its gradients need a few times as much."""


class ContractError(Exception):
    """A head did something else than it declares: a bug of this program, never the user's mistake."""


@dataclass(frozen=True)
class PlannedSize:
    """What will happen at one image size, known before training.

    Attributes:
        size: Height and width of the image in pixels.
        map_size: Height and width of the feature map in cells; None where the backbone leaves none.
        collapsed: Height and width that the head leaves for its Dense layers; None like `map_size`.
        verdict: What the head, trained at the training size, does here.
        seen_fraction: Share of the map's cells that can change the logits, by gradient; 0.0 if refused.
        seen_pixels: Share of the image's pixels that can, through these cells; 0.0 if refused.
        parameters: Parameters of a model built for this size from scratch; None where none can be built.
        reason: One sentence for people.
    """

    size: Size
    map_size: Size | None
    collapsed: Size | None
    verdict: Verdict
    seen_fraction: float
    seen_pixels: float
    parameters: int | None
    reason: str


_planned: WeakKeyDictionary[Geometry, dict[Hashable, PlannedSize]] = WeakKeyDictionary()
"""On each backbone that a process keeps: runs that differ in their seeds have one plan, and its gradients take time."""


class SizePlan:
    """What a head on a backbone will do at any image size.

    Args:
        backbone: The extractor's configuration.
        head: The head's configuration.
        facts: What both are trained on.

    Attributes:
        geometry: What the backbone makes of images of any size.
        native_map: Height and width of the feature map at the training size.

    Raises:
        ImageSizeError: The backbone cannot take the training images.
        ConfigError: The head cannot be made for the feature map of the training images.
    """

    def __init__(self, backbone: Backbone, head: Head, facts: DatasetFacts) -> None:
        self.backbone, self.head, self.facts = backbone, head, facts
        self.geometry = geometry_of(backbone, facts.channels)
        self.native_map: Size = self.geometry.map_shape(facts.image_size)[:2]
        head.check(self.native_map)

    def at(self, size: Size) -> PlannedSize:
        """What will happen to images of a size in pixels.

        Raises:
            ConfigError: The feature map is larger than `LARGEST_MAP`.
            ContractError: The head declares another seen fraction than its gradient has.
        """
        planned = _planned.setdefault(self.geometry, {})
        key = (type(self.head), repr(self.head), self.facts.classes, self.native_map, size)
        if key not in planned:
            planned[key] = self._plan(size)
        return planned[key]

    def _plan(self, size: Size) -> PlannedSize:
        head = self.head
        try:
            map_shape = self.geometry.map_shape(size)
        except ImageSizeError as error:
            return PlannedSize(size, None, None, Verdict.REFUSES, 0.0, 0.0, None, str(error))
        require(
            math.prod(map_shape) <= LARGEST_MAP,
            "image size",
            f"{size_text(size)} px",
            f"its feature map of {size_text(map_shape[:2])} cells with {map_shape[2]} channels is too large for the "
            f"memory; at most {LARGEST_MAP:,} numbers are planned",
            "Use smaller size_probe.sizes, size_probe.scales, training.sizes or dataset.image_size.",
        )
        contract = head.contract(self.native_map, map_shape[:2])
        seen_pixels = 0.0
        if contract.verdict is not Verdict.REFUSES:
            built = head.build(map_shape, self.facts.classes, trained_on=self.native_map)
            cells = seen_cells(built, map_shape)
            seen_fraction, seen_pixels = float(cells.mean()), float(self.geometry.seen_pixels(cells, size).mean())
            if not math.isclose(seen_fraction, contract.seen_fraction):
                raise ContractError(
                    f"head={head.name} declares that {contract.seen_fraction:.4f} of a {size_text(map_shape[:2])} map "
                    f"counts; its gradient says {seen_fraction:.4f}"
                )
        try:
            parameters = self.geometry.parameters + head.parameters(map_shape, self.facts.classes)
        except ConfigError:  # A window of fixed size that is larger than this map.
            parameters = None
        return PlannedSize(
            size=size,
            map_size=map_shape[:2],
            collapsed=contract.collapsed,
            verdict=contract.verdict,
            seen_fraction=contract.seen_fraction,
            seen_pixels=seen_pixels,
            parameters=parameters,
            reason=contract.reason,
        )

    @property
    def backbone_in_words(self) -> str:
        """The backbone in one sentence without its full stop: what its cells see, and its parameters."""
        field = self.geometry.receptive_field
        seen = f"{field.in_words(self.facts.image_size)}; " if field else ""
        return f"{self.backbone.name}: {seen}{self.geometry.parameters:,} parameters"

    def sizes(self, probe: SizeProbe) -> list[PlannedSize]:
        """What will happen at each probed size; for what is raised see `at`."""
        return [self.at(size) for size in probe.image_sizes(self.facts.image_size)]

    def off_stride(self, planned: Sequence[PlannedSize], heights: Sequence[int] | None) -> dict[int, int]:
        """Heights in pixels at which the network looks at other places than in training, and the nearest of the others.

        Where strides leave a remainder, padding of the kind "same" moves the places that they stop at. What is learned
        at sizes of one remainder is worse at sizes of another (Alsallakh et al., "Mind the Pool: Convolutional Neural
        Networks Can Overfit Input Size", 2022).

        Args:
            planned: The sizes in question; those that are refused are left out.
            heights: At which the model is trained; None is the training size.
        """
        native = self.facts.image_size
        field = self.geometry.receptive_field
        stride = field.stride[0] if field else 1.0
        if self.facts.natural or not stride.is_integer():
            return {}
        remainders = {height % int(stride) for height in heights or [native[0]]}
        asked = [plan.size[0] for plan in planned if plan.verdict is not Verdict.REFUSES]

        def nearest(height: int) -> int:
            around = range(height - int(stride), height + int(stride) + 1)
            return min((at for at in around if at % stride in remainders), key=lambda at: abs(at - height))

        return {height: nearest(height) for height in asked if height % stride not in remainders}

    def check_training(self, heights: Sequence[int] | None) -> None:
        """Raises `ConfigError` unless the model can be trained at each height in pixels; None is the training size."""
        native = self.facts.image_size
        planned = [self.at(of_shape(native, height)) for height in sorted(heights or [])]
        refused = [
            f"at {size_text(plan.size)} px, "
            + (
                plan.reason.rstrip(".")
                if plan.seen_fraction < 1
                else f"its model is built for {size_text(native)} px alone"
            )
            for plan in planned
            if plan.map_size is None or not (self.head.takes_any_size or plan.size == native)
        ]
        # Of those for any size, the one that is nothing but a mean is the plainest.
        any_size = next(
            option.name
            for option in HEADS
            if option().takes_any_size and option().collapsed_function(self.native_map) == MEAN
        )
        require(
            not refused,
            "training.sizes",
            heights,
            f"head={self.head.name} on {self.backbone.name} has to take every one of them in training. But "
            f"{'; '.join(refused)}",
            f"Use head={any_size} or another head for images of any size, larger sizes, or null.",
        )

    def check_smallest(self, data: Data) -> None:
        """Raises `ConfigError` if an image of natural size is too small for the backbone."""
        for split in (data.train_split, data.test_split):
            if not isinstance(split, NaturalSplit):
                continue  # Its one size was checked when the plan was made.
            heights, widths = split.size
            smallest = int(np.argmin(np.minimum(heights, widths)))
            size = int(heights[smallest]), int(widths[smallest])
            try:
                self.geometry.map_shape(size)
            except ImageTooSmallError as error:
                raise ConfigError(
                    "dataset.native_size",
                    True,
                    f"{split.files[smallest]} is too small: {error.rule}",
                    "Leave such images out, bring them to larger sizes with dataset.size_step, use a backbone with "
                    "fewer strides, or dataset.native_size=false.",
                ) from error
