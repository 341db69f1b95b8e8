"""What every head does: make logits (N, K) of a feature map (N, H, W, C), and say what it does with other sizes of map.

A head owns its knobs, its size contract and its `build()`. The contract is made of two functions of the feature-map
size, and everything else follows from them:

- `collapsed_size`: the spatial size that is left for the Dense layers, whose kernels fix it for good;
- `seen_cells`: how many rows or columns of the map can change the logits.

Keras is imported where a model is built, so that composing a configuration stays fast.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from omegaconf import MISSING

from pipeline.common.settings import Settings, is_count
from pipeline.common.size import Size, size_text
from pipeline.heads.verdict import Verdict

if TYPE_CHECKING:
    import keras
    from keras import KerasTensor


EVERY_CELL = "every cell"
"""The `collapsed_function` of a map that is kept whole."""
MEAN = "mean of each channel"
"""The `collapsed_function` of the mean over the whole map."""
POOLING_DTYPE = "float32"
"""In which every mean over a map is computed, under any precision of training.

On a CPU, AveragePooling2D adds the cells up, and counts them, in the type of the map. In float16 the mean of 256×256
cells can be twice what it is, or infinite, and GlobalAveragePooling2D, which adds up in float32, is another function.
"""


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
class Head(Settings, ABC):
    """What all heads share.

    Attributes:
        name: The head's name in configurations and in MLflow; follows from the class.
        hidden_units: Widths of Dense + ReLU layers between the collapsed map and the logits.
        dropout: Share of the inputs of each Dense layer that training drops.
    """

    name: str = MISSING
    hidden_units: list[int] = field(default_factory=list)
    dropout: float = 0.0

    group: ClassVar[str] = "head"
    color: ClassVar[str] = "#000000"
    """The head's colour in every chart: of Okabe and Ito's palette or Tol's muted one, for the colour-blind too."""

    def __post_init__(self) -> None:
        self.require_own_name()
        self.require(
            "hidden_units",
            all(map(is_count, self.hidden_units)),
            "each width must lie in [1, 2³¹)",
            "Use for example head.hidden_units=[128], or [] for none.",
        )
        self.require("dropout", 0.0 <= self.dropout < 1.0, "must lie in [0, 1)", example=0.5)

    @property
    def takes_any_size(self) -> bool:
        """Whether the model is built with unknown height and width."""
        return False

    @property
    def is_linear(self) -> bool:
        """Whether each logit is a sum over the cells of the map of what each gives to it, and a bias."""
        return False

    @abstractmethod
    def collapsed_size(self, native: Size, size: Size) -> Size:
        """Spatial size left for the Dense layers when a head built for `native` meets a map of `size`."""

    def seen_cells(self, native: Size, size: Size) -> Size:
        """Rows and columns of a map of `size` that can change the logits; all of them unless overridden."""
        return size

    def collapsed_function(self, native: Size | None) -> str:
        """What the collapse computes at the training size, in words: two heads that compute the same say the same.

        A head that is never the same function as another one need not say more than this.

        Args:
            native: Height and width of the map in training; None where they are not known.
        """
        shared = {field.name for field in dataclasses.fields(Head)}
        own = [field.name for field in dataclasses.fields(self) if field.name not in shared]
        return ", ".join([self.name, *(f"{name}={getattr(self, name)}" for name in own)])

    def function(self, native: Size | None) -> str:
        """What the whole head is, in words: heads with equal ones are one function, and train alike."""
        return f"{self.collapsed_function(native)}, hidden_units={self.hidden_units}, dropout={self.dropout}"

    @abstractmethod
    def collapse(self, feature_map: KerasTensor, native: Size) -> KerasTensor:
        """Turns (N, H, W, C) into (N, F), for a head trained on maps of size `native`."""

    def logits(self, feature_map: KerasTensor, native: Size, classes: int) -> KerasTensor:
        """Turns (N, H, W, C) into float32 logits (N, K): the collapsed map through Dense layers, unless overridden."""
        import keras

        x = self.collapse(feature_map, native)
        for units in self.hidden_units:
            x = keras.layers.Dense(units, activation="relu")(self._drop(x))
        x = self._drop(x)
        # Logits stay in float32 under mixed precision: the loss needs the digits.
        return keras.layers.Dense(classes, dtype="float32", name="logits")(x)

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
                f"the {size_text(size)} feature map collapses to {size_text(collapsed)}, but {self.fixed_by(trained)}"
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

    def fixed_by(self, trained: Size) -> str:
        """What wants a map collapsed to `trained`, in a clause."""
        return f"the first Dense kernel was trained on {size_text(trained)}"

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
        return keras.Model(inputs, self.logits(inputs, native, classes), name="head")

    def parameters(self, map_shape: tuple[int, int, int], classes: int) -> int:
        """How many weights the head has that is built for maps (H, W, C) and K classes, without building it.

        Raises:
            ConfigError: It cannot be built.
        """
        rows, columns, channels = map_shape
        self.check((rows, columns))
        collapsed = math.prod(self.collapsed_size((rows, columns), (rows, columns))) * channels
        return weights_between([collapsed, *self.hidden_units, classes])

    def check(self, native: Size) -> None:
        """Raises `ConfigError` if the head cannot be built for maps of size `native`."""

    def _drop(self, x: KerasTensor) -> KerasTensor:
        import keras

        # In the type that comes, for logits to be made of means in float32 with and without it.
        return keras.layers.Dropout(self.dropout, dtype=x.dtype)(x) if self.dropout else x


def weights_between(widths: Sequence[int]) -> int:
    """Of layers with a bias that make so many numbers of so many: (w₁ + 1)·w₂ + (w₂ + 1)·w₃ + …"""
    return sum((inputs + 1) * outputs for inputs, outputs in itertools.pairwise(widths))
