"""1×1 convolutions to a map a class, then the mean: no Dense layer at all."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from pipeline.common.settings import is_count
from pipeline.common.size import Size, size_text
from pipeline.heads.average import AveragePool
from pipeline.heads.base import MEAN, Head, weights_between
from pipeline.heads.global_pools import GlobalAveragePool

if TYPE_CHECKING:
    from keras import KerasTensor


@dataclass
class ConvPool(Head):
    """1×1 convolutions to K class maps (N, H, W, K), then the mean of each, which is its class's logit.

    A 1×1 convolution is a Dense layer on each cell, and the mean of what it makes is what it makes of the mean. So
    without hidden layers and `class_relu` this is GlobalAveragePooling2D and Dense, of the same weights; with them it
    is not.
    Weights, hidden filters h₁, …, hₙ: (C + 1)·h₁ + (h₁ + 1)·h₂ + … + (hₙ + 1)·K, and C·K + K without any.
    Source: Lin, Chen, Yan, "Network In Network", 2013, section 3.2, which has a ReLU on the class maps.

    `dropout` drops whole channels, in all cells alike, before each convolution: one cell tells of its neighbours
    (Tompson et al., "Efficient Object Localization Using Convolutional Networks", 2015, section 3.2). That is dropout
    of the mean.

    Attributes:
        hidden_filters: Channels of 1×1 convolutions with ReLU before that to the class maps.
        class_relu: A ReLU on the class maps too.
        pool: `global` for the mean over a map of any size, `full_window` for AveragePooling2D over the map of training.
    """

    name: str = "conv_pool"
    hidden_filters: list[int] = field(default_factory=list)
    class_relu: bool = False
    pool: str = "global"

    color: ClassVar[str] = "#882255"
    POOLS: ClassVar[dict[str, type[Head]]] = {"global": GlobalAveragePool, "full_window": AveragePool}

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(
            "hidden_units",
            not self.hidden_units,
            f"{self.name} has no Dense layers",
            "Use head.hidden_filters=[128] for 1×1 convolutions, or another head.",
        )
        self.require(
            "hidden_filters",
            all(map(is_count, self.hidden_filters)),
            "each width must lie in [1, 2³¹)",
            "Use for example head.hidden_filters=[128], or [] for none.",
        )
        self.require("pool", self.pool in self.POOLS, f"must be {' or '.join(self.POOLS)}", example="global")

    @property
    def takes_any_size(self) -> bool:
        return self._pooling.takes_any_size

    @property
    def is_linear(self) -> bool:
        return not self.hidden_filters and not self.class_relu

    @property
    def _pooling(self) -> Head:
        return self.POOLS[self.pool]()

    def collapsed_size(self, native: Size, size: Size) -> Size:
        return self._pooling.collapsed_size(native, size)

    def seen_cells(self, native: Size, size: Size) -> Size:
        return self._pooling.seen_cells(native, size)

    def fixed_by(self, trained: Size) -> str:
        return f"{size_text(trained)} is what leaves one score a class"

    def collapsed_function(self, native: Size | None) -> str:
        if self.is_linear:
            return MEAN
        maps = f"1×1 convolutions, hidden_filters={self.hidden_filters}, class_relu={self.class_relu}"
        return f"{maps}, {MEAN}"

    def collapse(self, feature_map: KerasTensor, native: Size) -> KerasTensor:
        return self._pooling.collapse(feature_map, native)

    def logits(self, feature_map: KerasTensor, native: Size, classes: int) -> KerasTensor:
        import keras

        x = feature_map
        for filters in self.hidden_filters:
            x = keras.layers.Conv2D(filters, 1, activation="relu")(self._drop(x))
        activation = "relu" if self.class_relu else None
        # In float32, as the logits of a Dense layer are.
        to_classes = keras.layers.Conv2D(classes, 1, activation=activation, dtype="float32", name="class_maps")
        return self.collapse(to_classes(self._drop(x)), native)

    def parameters(self, map_shape: tuple[int, int, int], classes: int) -> int:
        return weights_between([map_shape[2], *self.hidden_filters, classes])

    def _drop(self, x: KerasTensor) -> KerasTensor:
        import keras

        return keras.layers.SpatialDropout2D(self.dropout, dtype=x.dtype)(x) if self.dropout else x
