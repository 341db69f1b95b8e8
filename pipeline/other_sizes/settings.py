"""Which other image sizes are probed, and how."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import ClassVar

from pipeline.common.settings import Settings, is_side
from pipeline.common.size import Size, of_shape
from pipeline.other_sizes.ways import ALL_WAYS, WAYS


class Format(Enum):
    """In what a model is written: the end of the file's name; a SavedModel is a directory of any name."""

    keras = ".keras"
    saved_model = ""
    onnx = ".onnx"
    litert = ".tflite"


@dataclass
class SizeProbe(Settings):
    """Which image sizes are probed, and how.

    Attributes:
        scales: Sizes as multiples of the training size; with natural sizes, of the reference `dataset.image_size`.
        sizes: Heights in pixels instead of `scales`; widths keep the shape of the training images. null uses `scales`.
        max_images: Test images measured at each size; null for all of them.
        batch_size: Images in a batch at the training size; larger images come in smaller batches of as many pixels.
        seed: Draws where each image lies on the canvas, the same for every run.
        ways: Names of the ways to run the trained model at other sizes that are measured beside the model as it is (see
            `pipeline.other_sizes.ways`); null for all that its head allows and that fit no weights again, [] for none.
        refit_images: Training images, drawn by `seed` from every class, on which the ways that fit weights again do so
            at each size; null for all of them.
    """

    scales: list[float] = field(default_factory=lambda: [0.5, 0.75, 0.875, 1.0, 1.25, 1.5, 1.75, 2.0])
    sizes: list[int] | None = None
    max_images: int | None = None
    batch_size: int = 256
    seed: int = 0
    ways: list[str] | None = None
    refit_images: int | None = 10_000

    group: ClassVar[str] = "size_probe"

    def __post_init__(self) -> None:
        self.require(
            "scales",
            len(self.scales) > 0 and all(0 < scale <= 16 for scale in self.scales),
            "needs at least one scale, and each must lie in (0, 16]",
            example="[0.5,1,2]",
        )
        self.require(
            "sizes",
            self.sizes is None or (len(self.sizes) > 0 and all(map(is_side, self.sizes))),
            "must be null or hold at least one height, each from 1 to 65,535 px",
            "Use for example size_probe.sizes=[20,28,40], or null to use size_probe.scales.",
        )
        if self.max_images is not None:
            self.require_at_least("max_images", 1, 1000)
        self.require_at_least("batch_size", 1, 256)
        self.require_at_least("seed", 0, 0)
        self.require(
            "ways",
            set(self.ways or []) <= {way.name for way in ALL_WAYS},
            f"must be null or a list of {', '.join(way.name for way in ALL_WAYS)}",
            f"Use for example size_probe.ways=[{WAYS[0].name}], or [] for none.",
        )
        if self.refit_images is not None:
            self.require_at_least("refit_images", 1, 10_000)

    def image_sizes(self, native: Size) -> list[Size]:
        """Sizes (height, width) in pixels to probe, ascending, the training size `native` always among them."""
        heights = self.sizes or [round(native[0] * scale) for scale in self.scales]
        return sorted({of_shape(native, side) for side in heights if side >= 1} | {native})

    def batch_size_at(self, size: Size, native: Size) -> int:
        """Images in a batch: as many pixels as in one at the training size `native`, so that memory stays bounded."""
        return max(1, min(self.batch_size, self.batch_size * native[0] * native[1] // (size[0] * size[1])))
