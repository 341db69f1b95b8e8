"""AveragePooling2D, then Dense."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from pipeline.common.settings import is_count
from pipeline.common.size import Size, size_text
from pipeline.heads.base import MEAN, POOLING_DTYPE, Head

if TYPE_CHECKING:
    from keras import KerasTensor


@dataclass
class AveragePool(Head):
    """AveragePooling2D, by default over the whole feature map, then Flatten and Dense.

    Output cells of one axis, map of m cells, window p, stride s: `valid` (m - p) // s + 1, `same` ⌈m / s⌉
    (https://keras.io/api/layers/pooling_layers/average_pooling2d).
    Weights of the head without hidden layers and with the full window: C·K + K.

    Attributes:
        pool_size: `full` for the whole map at the training size, or [rows, columns].
        strides: [rows, columns]; null for the window's own size.
        padding: `valid` or `same`.
    """

    name: str = "average_pool"
    # OmegaConf has no union of a string and a list; __post_init__ checks it.
    pool_size: Any = "full"
    strides: list[int] | None = None
    padding: str = "valid"

    color: ClassVar[str] = "#E69F00"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(
            "pool_size",
            self.pool_size == "full" or _is_two_positive(self.pool_size),
            "must be 'full' or two numbers of at least 1: [rows, columns]",
            "Use for example head.pool_size=full or head.pool_size=[2,2].",
        )
        self.require(
            "strides",
            self.strides is None or _is_two_positive(self.strides),
            "must be null or two numbers of at least 1: [rows, columns]",
            "Use for example head.strides=[1,1], or null for the window's own size.",
        )
        self.require("padding", self.padding in ("valid", "same"), "must be valid or same", "Use head.padding=valid.")

    def window(self, native: Size) -> Size:
        if self.pool_size == "full":
            return native
        rows, columns = self.pool_size
        return rows, columns

    def _strides(self, native: Size) -> Size:
        if self.strides is None:
            return self.window(native)
        rows, columns = self.strides
        return rows, columns

    def _axes(self, native: Size, size: Size) -> list[tuple[int, int, int]]:
        return list(zip(size, self.window(native), self._strides(native), strict=True))

    def _outputs(self, cells: int, window: int, stride: int) -> int:
        if self.padding == "same":
            return math.ceil(cells / stride)
        return (cells - window) // stride + 1 if cells >= window else 0

    def _seen(self, cells: int, window: int, stride: int) -> int:
        outputs = self._outputs(cells, window, stride)
        padded = max((outputs - 1) * stride + window - cells, 0) if self.padding == "same" else 0
        starts = [index * stride - padded // 2 for index in range(outputs)]
        return len({cell for start in starts for cell in range(start, start + window) if 0 <= cell < cells})

    @property
    def is_linear(self) -> bool:
        return not self.hidden_units

    def collapsed_size(self, native: Size, size: Size) -> Size:
        rows, columns = (self._outputs(*axis) for axis in self._axes(native, size))
        return rows, columns

    def seen_cells(self, native: Size, size: Size) -> Size:
        rows, columns = (self._seen(*axis) for axis in self._axes(native, size))
        return rows, columns

    def check(self, native: Size) -> None:
        if 0 in self.collapsed_size(native, native):
            raise self.error(
                "pool_size",
                f"must fit into the {size_text(native)} feature map of the training images",
                "Use head.pool_size=full, a smaller window, or fewer strides in the backbone.",
            )

    def collapsed_function(self, native: Size | None) -> str:
        whole = self.pool_size == "full" or native == tuple(self.pool_size)
        return MEAN if whole and self.padding == "valid" else super().collapsed_function(native)

    def collapse(self, feature_map: KerasTensor, native: Size) -> KerasTensor:
        import keras

        pool = keras.layers.AveragePooling2D(
            self.window(native), self._strides(native), self.padding, dtype=POOLING_DTYPE
        )
        return keras.layers.Flatten(dtype=POOLING_DTYPE)(pool(feature_map))


def _is_two_positive(value: object) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 2
        and all(isinstance(item, int) and not isinstance(item, bool) and is_count(item) for item in value)
    )
