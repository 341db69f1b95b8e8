"""Flatten, then Dense."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from pipeline.common.size import Size
from pipeline.heads.base import EVERY_CELL, Head

if TYPE_CHECKING:
    from keras import KerasTensor


@dataclass
class FlattenDense(Head):
    """Flatten, then Dense: every cell of the map has its own weights.

    Weights of the head without hidden layers: H·W·C·K + K.
    """

    name: str = "flatten_dense"

    color: ClassVar[str] = "#D55E00"

    @property
    def is_linear(self) -> bool:
        return not self.hidden_units

    def collapsed_size(self, native: Size, size: Size) -> Size:
        return size

    def collapsed_function(self, native: Size | None) -> str:
        return EVERY_CELL

    def collapse(self, feature_map: KerasTensor, native: Size) -> KerasTensor:
        import keras

        return keras.layers.Flatten()(feature_map)
