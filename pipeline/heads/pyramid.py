"""Spatial pyramid pooling, then Dense."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from pipeline.common.size import Size
from pipeline.heads.adaptive_pooling import adaptive_max_pool
from pipeline.heads.base import EVERY_CELL, Head

if TYPE_CHECKING:
    from keras import KerasTensor


@dataclass
class SpatialPyramidPool(Head):
    """Spatial pyramid pooling (SPP), then Dense: maxima over grids of n×n bins, over a map of any size.

    Weights of the head without hidden layers, levels n₁, n₂, …: (n₁² + n₂² + …)·C·K + K.
    Source: He, Zhang, Ren, Sun, "Spatial Pyramid Pooling in Deep Convolutional Networks", 2014, section 2.2.

    Attributes:
        levels: Bins a side of each grid.
    """

    name: str = "spatial_pyramid_pool"
    levels: list[int] = field(default_factory=lambda: [1, 2, 4])

    takes_any_size = True
    color: ClassVar[str] = "#009E73"
    MAX_BINS: ClassVar[int] = 256

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(
            "levels",
            len(self.levels) > 0 and all(1 <= bins <= self.MAX_BINS for bins in self.levels),
            f"needs at least one level, and each 1 to {self.MAX_BINS} bins a side",
            example="[1,2,4]",
        )

    def collapsed_size(self, native: Size, size: Size) -> Size:
        return (sum(bins**2 for bins in self.levels), 1)

    def collapsed_function(self, native: Size | None) -> str:
        # A bin for each cell is the map itself.
        of_cells = native is not None and native[0] == native[1] and self.levels == [native[0]]
        return EVERY_CELL if of_cells else super().collapsed_function(native)

    def collapse(self, feature_map: KerasTensor, native: Size) -> KerasTensor:
        import keras

        grids = [adaptive_max_pool(feature_map, (bins, bins)) for bins in self.levels]
        flat = [keras.layers.Flatten()(grid) for grid in grids]
        return keras.layers.Concatenate()(flat) if len(flat) > 1 else flat[0]
