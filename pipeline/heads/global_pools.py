"""Pooling of the whole map into a number a channel, then Dense."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from pipeline.common.size import Size
from pipeline.heads.base import MEAN, POOLING_DTYPE, Head

if TYPE_CHECKING:
    from keras import KerasTensor


@dataclass
class GlobalPool(Head):
    """What heads share that pool the whole map into a number a channel.

    Weights of the head without hidden layers: C·K + K.
    """

    takes_any_size = True

    def collapsed_size(self, native: Size, size: Size) -> Size:
        return (1, 1)


@dataclass
class GlobalAveragePool(GlobalPool):
    """GlobalAveragePooling2D, then Dense: the mean of each channel, over a map of any size.

    Source: Lin, Chen, Yan, "Network In Network", 2013, section 3.2.

    Attributes:
        keepdims: Keep the pooled map as (N, 1, 1, C) until it is flattened; the logits are the same.
    """

    name: str = "global_average_pool"
    keepdims: bool = False

    color: ClassVar[str] = "#0072B2"

    @property
    def is_linear(self) -> bool:
        return not self.hidden_units

    def collapsed_function(self, native: Size | None) -> str:
        return MEAN

    def collapse(self, feature_map: KerasTensor, native: Size) -> KerasTensor:
        import keras

        pooled = keras.layers.GlobalAveragePooling2D(keepdims=self.keepdims, dtype=POOLING_DTYPE)(feature_map)
        return keras.layers.Flatten(dtype=POOLING_DTYPE)(pooled) if self.keepdims else pooled


@dataclass
class GlobalMaxPool(GlobalPool):
    """GlobalMaxPooling2D, then Dense: the largest value of each channel, over a map of any size.

    Source: Oquab, Bottou, Laptev, Sivic, "Is object localization for free?", 2015, section 3.
    """

    name: str = "global_max_pool"

    color: ClassVar[str] = "#CC79A7"

    def collapse(self, feature_map: KerasTensor, native: Size) -> KerasTensor:
        import keras

        return keras.layers.GlobalMaxPooling2D()(feature_map)


@dataclass
class AverageMaxPool(GlobalPool):
    """Mean and largest value of each channel, over a map of any size, then Dense.

    Weights of the head without hidden layers: C·K + K, and with both side by side 2·C·K + K.
    Source: timm, layers/adaptive_avgmax_pool.py: `avgmax` is the mean of the two, `catavgmax` both, averages first.

    Attributes:
        combine: `mean` of the two, or `concatenate`.
    """

    name: str = "average_max_pool"
    combine: str = "mean"

    color: ClassVar[str] = "#332288"

    def __post_init__(self) -> None:
        super().__post_init__()
        choices = ("mean", "concatenate")
        self.require("combine", self.combine in choices, f"must be {' or '.join(choices)}", example="mean")

    def collapsed_size(self, native: Size, size: Size) -> Size:
        return (1, 1) if self.combine == "mean" else (2, 1)

    def collapse(self, feature_map: KerasTensor, native: Size) -> KerasTensor:
        import keras

        layers = keras.layers
        average = layers.GlobalAveragePooling2D(dtype=POOLING_DTYPE)(feature_map)
        largest = layers.GlobalMaxPooling2D(dtype=POOLING_DTYPE)(feature_map)
        together = layers.Average if self.combine == "mean" else layers.Concatenate
        return together(dtype=POOLING_DTYPE)([average, largest])


@dataclass
class GeneralizedMeanPool(GlobalPool):
    """Generalized-mean pooling (GeM), then Dense: (mean xᵖ)^(1/p) of each channel, over a map of any size.

    p = 1 is the mean, p → ∞ the maximum. Values below `FLOOR` count as that unless p is fixed to 1: roots want positive
    numbers. Powers are of shares of the channel's largest value, so that those of large p neither overflow nor vanish.
    Weights of the head without hidden layers: C·K + K, and one more for a p that is trained.
    Source: Radenović, Tolias, Chum, "Fine-tuning CNN Image Retrieval with No Human Annotation", 2018, equation 3, where
    p is one number for all channels, and trained from 3.

    Attributes:
        p: The exponent; what training starts from if it is trained.
        trainable_p: Train the exponent with the other weights. It stays at 1 or above.
    """

    name: str = "generalized_mean_pool"
    p: float = 3.0
    trainable_p: bool = False

    color: ClassVar[str] = "#56B4E9"
    FLOOR: ClassVar[float] = 1e-6

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require("p", 1 <= self.p <= 100, "must lie in [1, 100]", "Use for example head.p=3, or 1 for the mean.")

    @property
    def _is_mean(self) -> bool:
        return self.p == 1 and not self.trainable_p

    @property
    def is_linear(self) -> bool:
        return self._is_mean and not self.hidden_units

    def collapsed_function(self, native: Size | None) -> str:
        return MEAN if self._is_mean else super().collapsed_function(native)

    def parameters(self, map_shape: tuple[int, int, int], classes: int) -> int:
        return super().parameters(map_shape, classes) + int(self.trainable_p)

    def collapse(self, feature_map: KerasTensor, native: Size) -> KerasTensor:
        import keras
        from keras import ops

        mean = keras.layers.GlobalAveragePooling2D(dtype=POOLING_DTYPE)
        if self._is_mean:
            return mean(feature_map)
        values = ops.maximum(ops.cast(feature_map, POOLING_DTYPE), self.FLOOR)
        # The result does not depend on what it is divided and multiplied by, so neither does its gradient.
        largest = ops.stop_gradient(ops.max(values, axis=(1, 2)))
        # (N, 1) of one number where it is trained, for the map's three axes and for the mean's one.
        p = self._trained_p(feature_map) if self.trainable_p else self.p
        of_cells = ops.expand_dims(p, (1, 2)) if self.trainable_p else p
        powers = ops.power(values / ops.expand_dims(largest, (1, 2)), of_cells)
        return largest * ops.power(mean(powers), 1 / p)

    def _trained_p(self, feature_map: KerasTensor) -> KerasTensor:
        """The exponent (N, 1): the weight of a Dense layer on a 1, since a layer of our own loads nowhere else.

        The weight is p - 1, which Keras's own constraint keeps from being negative: below 1 lies the pole of 1 / p.
        """
        import keras
        from keras import ops

        one = ops.cast(ops.ones_like(feature_map[:, 0, 0, :1]), POOLING_DTYPE)
        above_one = keras.layers.Dense(
            1,
            use_bias=False,
            kernel_initializer=keras.initializers.Constant(self.p - 1),
            kernel_constraint=keras.constraints.NonNeg(),
            dtype=POOLING_DTYPE,
            name="p_above_one",
        )
        return 1 + above_one(one)
