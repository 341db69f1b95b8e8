"""Averages over a fixed number of bins, then Flatten and Dense: Flatten's positions on a map of any size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from pipeline.common.size import Size
from pipeline.heads.adaptive_pooling import adaptive_average_pool
from pipeline.heads.base import EVERY_CELL, MEAN, POOLING_DTYPE, Head

if TYPE_CHECKING:
    from keras import KerasTensor


@dataclass
class AdaptiveAveragePool(Head):
    """Means over a grid of R×S bins, over a map of any size, then Flatten and Dense: each bin has its own weights.

    With as many bins as the map has cells in training, it is Flatten and Dense there. On a map with fewer cells than
    bins, neighbouring bins share cells; all of any map counts.
    Weights of the head without hidden layers: R·S·C·K + K.
    Source: AdaptiveAvgPool2d before the Dense layers of AlexNet (6×6 bins) and VGG (7×7) in torchvision, alexnet.py and
    vgg.py; the bins are those of `adaptive_pooling`.

    Attributes:
        bins: [rows, columns]; null for as many as the map has at the training size.
    """

    name: str = "adaptive_average_pool"
    bins: list[int] | None = None

    takes_any_size = True
    color: ClassVar[str] = "#999933"
    MAX_BINS: ClassVar[int] = 256

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(
            "bins",
            self.bins is None or (len(self.bins) == 2 and all(1 <= bins <= self.MAX_BINS for bins in self.bins)),
            f"must be null or [rows, columns], each from 1 to {self.MAX_BINS}",
            "Use for example head.bins=[7,7], or null for those of the map of the training images.",
        )

    def _bins(self, native: Size) -> Size:
        if self.bins is None:
            return native
        rows, columns = self.bins
        return rows, columns

    @property
    def is_linear(self) -> bool:
        return not self.hidden_units

    def collapsed_size(self, native: Size, size: Size) -> Size:
        return self._bins(native)

    def collapsed_function(self, native: Size | None) -> str:
        if native is not None and self._bins(native) == native:
            return EVERY_CELL
        return MEAN if self.bins == [1, 1] else super().collapsed_function(native)

    def collapse(self, feature_map: KerasTensor, native: Size) -> KerasTensor:
        import keras

        pooled = adaptive_average_pool(feature_map, self._bins(native))
        return keras.layers.Flatten(dtype=POOLING_DTYPE)(pooled)
