"""The heads: what turns a feature map (N, H, W, C) into logits (N, K).

A head owns its knobs, its size contract and its `build()`. The contract is made of two functions of the
feature-map size, and everything else follows from them:

- `collapsed_size`: the spatial size that is left for the Dense layers, whose kernels fix it for good;
- `seen_cells`: how many rows or columns of the map can change the logits.

Keras is imported where a model is built, so that composing a configuration stays fast.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, ClassVar

from omegaconf import MISSING

from pipeline.adaptive_pooling import adaptive_max_pool
from pipeline.errors import ConfigError, is_count, require, require_own_name

if TYPE_CHECKING:
    import keras
    from keras import KerasTensor

Size = tuple[int, int]
"""Height and width, of an image in pixels or of a feature map in cells."""


def size_text(size: Size) -> str:
    """`7×7` for `(7, 7)`."""
    return f"{size[0]}×{size[1]}"


def of_shape(native: Size, height: int) -> Size:
    """The size of a height in pixels whose width keeps the shape of `native` images."""
    return height, max(1, round(native[1] * height / native[0]))


class Verdict(StrEnum):
    """What a trained head does with a feature map of some size."""

    NATIVE = "native"
    """The map has the size that the head was trained on, and all of it counts."""
    ADAPTS = "adapts"
    """Another size; all of the map counts."""
    CROPS = "crops"
    """It runs, but part of the map cannot change the logits."""
    REFUSES = "refuses"
    """The trained weights do not fit, or there is nothing left to apply them to."""


@dataclass(frozen=True)
class Contract:
    """What a head declares for one feature-map size.

    Attributes:
        verdict: See `Verdict`.
        collapsed: Spatial size left for the Dense layers, `(0, 0)` if the window does not fit.
        seen_fraction: Share of the map's cells that can change the logits, 0.0 if refused.
        reason: One sentence for people.
    """

    verdict: Verdict
    collapsed: Size
    seen_fraction: float
    reason: str


@dataclass
class Head(ABC):
    """What all heads share.

    Attributes:
        name: The head's name in configurations and in MLflow; follows from the class.
        hidden_units: Widths of Dense + ReLU layers between the collapsed map and the logits.
        dropout: Share of the inputs of each Dense layer that training drops.
    """

    name: str = MISSING
    hidden_units: list[int] = field(default_factory=list)
    dropout: float = 0.0

    takes_any_size: ClassVar[bool] = False
    """Whether the model is built with unknown height and width."""
    color: ClassVar[str] = "#000000"
    """The head's colour in every chart (Okabe and Ito's palette, which colour-blind readers can tell apart)."""

    def __post_init__(self) -> None:
        require_own_name(self, "head")
        require(
            all(map(is_count, self.hidden_units)),
            "head.hidden_units",
            self.hidden_units,
            "each width must lie in [1, 2³¹)",
            "Use for example head.hidden_units=[128], or [] for none.",
        )
        require(
            0.0 <= self.dropout < 1.0,
            "head.dropout",
            self.dropout,
            "must lie in [0, 1)",
            "Use for example head.dropout=0.5.",
        )

    @abstractmethod
    def collapsed_size(self, native: Size, size: Size) -> Size:
        """Spatial size left for the Dense layers when a head built for `native` meets a map of `size`."""

    def seen_cells(self, native: Size, size: Size) -> Size:
        """Rows and columns of a map of `size` that can change the logits; all of them unless overridden."""
        return size

    @abstractmethod
    def collapse(self, feature_map: KerasTensor, native: Size) -> KerasTensor:
        """Turns (N, H, W, C) into (N, F), for a head trained on maps of size `native`."""

    def contract(self, native: Size, size: Size) -> Contract:
        """What the head, trained on maps of size `native`, does with one of `size`."""
        collapsed = self.collapsed_size(native, size)
        trained = self.collapsed_size(native, native)
        if 0 in collapsed:
            window = "×".join(str(cells) for cells in self.window(native))
            reason = f"the {window} window does not fit into the {size_text(size)} feature map"
            return Contract(Verdict.REFUSES, (0, 0), 0.0, reason)
        if collapsed != trained:
            reason = (
                f"the {size_text(size)} feature map collapses to {size_text(collapsed)}, but the first Dense kernel "
                f"was trained on {size_text(trained)}"
            )
            return Contract(Verdict.REFUSES, collapsed, 0.0, reason)
        rows, columns = self.seen_cells(native, size)
        seen_fraction = rows * columns / (size[0] * size[1])
        if seen_fraction < 1:
            reason = f"{1 - seen_fraction:.0%} of the {size_text(size)} feature map is ignored"
            return Contract(Verdict.CROPS, collapsed, seen_fraction, reason)
        if size == native:
            return Contract(Verdict.NATIVE, collapsed, 1.0, f"the feature map is {size_text(native)} as in training")
        return Contract(Verdict.ADAPTS, collapsed, 1.0, f"all of the {size_text(size)} feature map counts")

    def window(self, native: Size) -> Size:
        """Rows and columns that one output cell looks at; the whole map unless overridden."""
        return native

    def build(self, map_shape: tuple[int, int, int], classes: int, trained_on: Size | None = None) -> keras.Model:
        """Builds the head.

        Args:
            map_shape: Shape (H, W, C) of the feature map that it will meet.
            classes: Number of classes K.
            trained_on: Height and width of the map that the head was made for, if another: the windows keep that
                size, so that weights trained there mean the same here.

        Returns:
            A model named `head` from (N, H, W, C), or (N, ?, ?, C) where the head takes any size, to float32
            logits (N, K).

        Raises:
            ConfigError: The head cannot be made for maps of this size.
            ValueError: A head made for `trained_on` finds its window larger than this map.
        """
        import keras

        native = trained_on or map_shape[:2]
        self.check(native)
        input_size = (None, None) if self.takes_any_size else map_shape[:2]
        inputs = keras.Input((*input_size, map_shape[2]), name="feature_map")
        x = self.collapse(inputs, native)
        for units in self.hidden_units:
            x = keras.layers.Dense(units, activation="relu")(self._drop(x))
        x = self._drop(x)
        # Logits stay in float32 under mixed precision: the loss needs the digits.
        logits = keras.layers.Dense(classes, dtype="float32", name="logits")(x)
        return keras.Model(inputs, logits, name="head")

    def parameters(self, map_shape: tuple[int, int, int], classes: int) -> int:
        """How many weights the head has that is built for maps (H, W, C) and K classes, without building it.

        Raises:
            ConfigError: It cannot be built.
        """
        rows, columns, channels = map_shape
        self.check((rows, columns))
        widths = [math.prod(self.collapsed_size((rows, columns), (rows, columns))) * channels, *self.hidden_units]
        return sum((inputs + 1) * units for inputs, units in zip(widths, [*self.hidden_units, classes], strict=True))

    def check(self, native: Size) -> None:  # noqa: B027  (most heads can be built for any map)
        """Raises `ConfigError` if the head cannot be built for maps of size `native`."""

    def _drop(self, x: KerasTensor) -> KerasTensor:
        import keras

        return keras.layers.Dropout(self.dropout)(x) if self.dropout else x


@dataclass
class FlattenDense(Head):
    """Flatten, then Dense: every cell of the map has its own weights.

    Weights of the head without hidden layers: H·W·C·K + K.
    """

    name: str = "flatten_dense"

    color: ClassVar[str] = "#D55E00"

    def collapsed_size(self, native: Size, size: Size) -> Size:
        return size

    def collapse(self, feature_map: KerasTensor, native: Size) -> KerasTensor:
        import keras

        return keras.layers.Flatten()(feature_map)


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
        require(
            self.pool_size == "full" or _is_two_positive(self.pool_size),
            "head.pool_size",
            self.pool_size,
            "must be 'full' or two numbers of at least 1: [rows, columns]",
            "Use for example head.pool_size=full or head.pool_size=[2,2].",
        )
        require(
            self.strides is None or _is_two_positive(self.strides),
            "head.strides",
            self.strides,
            "must be null or two numbers of at least 1: [rows, columns]",
            "Use for example head.strides=[1,1], or null for the window's own size.",
        )
        require(
            self.padding in ("valid", "same"),
            "head.padding",
            self.padding,
            "must be valid or same",
            "Use head.padding=valid.",
        )

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

    def collapsed_size(self, native: Size, size: Size) -> Size:
        rows, columns = (self._outputs(*axis) for axis in self._axes(native, size))
        return rows, columns

    def seen_cells(self, native: Size, size: Size) -> Size:
        rows, columns = (self._seen(*axis) for axis in self._axes(native, size))
        return rows, columns

    def check(self, native: Size) -> None:
        if 0 in self.collapsed_size(native, native):
            raise ConfigError(
                "head.pool_size",
                self.pool_size,
                f"must fit into the {size_text(native)} feature map of the training images",
                "Use head.pool_size=full, a smaller window, or fewer strides in the backbone.",
            )

    def collapse(self, feature_map: KerasTensor, native: Size) -> KerasTensor:
        import keras

        pool = keras.layers.AveragePooling2D(self.window(native), self._strides(native), self.padding)
        return keras.layers.Flatten()(pool(feature_map))


@dataclass
class GlobalPool(Head):
    """What heads share that pool the whole map into a number a channel.

    Weights of the head without hidden layers: C·K + K.
    """

    takes_any_size: ClassVar[bool] = True

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

    def collapse(self, feature_map: KerasTensor, native: Size) -> KerasTensor:
        import keras

        pooled = keras.layers.GlobalAveragePooling2D(keepdims=self.keepdims)(feature_map)
        return keras.layers.Flatten()(pooled) if self.keepdims else pooled


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
class GeneralizedMeanPool(GlobalPool):
    """Generalized-mean pooling (GeM), then Dense: (mean xᵖ)^(1/p) of each channel, over a map of any size.

    p = 1 is the mean, p → ∞ the maximum. Values below `FLOOR` count as that: roots want positive numbers. Powers are of
    shares of the channel's largest value, so that those of large p neither overflow nor vanish.
    Source: Radenović, Tolias, Chum, "Fine-tuning CNN Image Retrieval with No Human Annotation", 2018, equation 3. p is
    fixed here and not learned.

    Attributes:
        p: The exponent.
    """

    name: str = "generalized_mean_pool"
    p: float = 3.0

    color: ClassVar[str] = "#56B4E9"
    FLOOR: ClassVar[float] = 1e-6

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            1 <= self.p <= 100, "head.p", self.p, "must lie in [1, 100]", "Use for example head.p=3, or 1 for the mean."
        )

    def collapse(self, feature_map: KerasTensor, native: Size) -> KerasTensor:
        import keras
        from keras import ops

        values = ops.maximum(ops.cast(feature_map, "float32"), self.FLOOR)
        # The result does not depend on what it is divided and multiplied by, so neither does its gradient.
        largest = ops.stop_gradient(ops.max(values, axis=(1, 2)))
        powers = ops.power(values / ops.expand_dims(largest, (1, 2)), self.p)
        return largest * ops.power(keras.layers.GlobalAveragePooling2D(dtype="float32")(powers), 1 / self.p)


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

    takes_any_size: ClassVar[bool] = True
    color: ClassVar[str] = "#009E73"
    MAX_BINS: ClassVar[int] = 256

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            len(self.levels) > 0 and all(1 <= bins <= self.MAX_BINS for bins in self.levels),
            "head.levels",
            self.levels,
            f"needs at least one level, and each 1 to {self.MAX_BINS} bins a side",
            "Use for example head.levels=[1,2,4].",
        )

    def collapsed_size(self, native: Size, size: Size) -> Size:
        return (sum(bins**2 for bins in self.levels), 1)

    def collapse(self, feature_map: KerasTensor, native: Size) -> KerasTensor:
        import keras

        grids = [adaptive_max_pool(feature_map, (bins, bins)) for bins in self.levels]
        flat = [keras.layers.Flatten()(grid) for grid in grids]
        return keras.layers.Concatenate()(flat) if len(flat) > 1 else flat[0]


HEADS: tuple[type[Head], ...] = (
    FlattenDense,
    AveragePool,
    GlobalAveragePool,
    GlobalMaxPool,
    GeneralizedMeanPool,
    SpatialPyramidPool,
)
"""The heads that `head=NAME` offers; a new one is added here, in `conf/head/` and in the test table."""


def _is_two_positive(value: object) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 2
        and all(isinstance(item, int) and not isinstance(item, bool) and is_count(item) for item in value)
    )
