"""Networks for small images, trained from scratch."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pipeline.models.backbones.base import Backbone

if TYPE_CHECKING:
    from keras import KerasTensor


@dataclass
class SmallFcn(Backbone):
    """A plain stack of 3×3 convolutions with batch norm and ReLU.

    Feature map of one axis, image of m pixels: ⌈m / s⌉ for each stride s in turn.

    Attributes:
        filters: Channels of each layer.
        strides: Stride of each layer.
    """

    name: str = "small_fcn"
    filters: list[int] = field(default_factory=lambda: [32, 32, 64, 64])
    strides: list[int] = field(default_factory=lambda: [1, 2, 1, 2])

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_layers("filters")
        self.require_layers("strides")
        self.require(
            "strides",
            len(self.filters) == len(self.strides),
            f"needs one stride a layer, {len(self.filters)} as in backbone.filters={self.filters}",
            f"Use for example backbone.strides={[1] * len(self.filters)}.",
        )

    @property
    def minimum_side(self) -> int:
        return math.prod(self.strides)

    def features(self, images: KerasTensor) -> KerasTensor:
        import keras

        x = keras.layers.Rescaling(1 / 255)(images)
        for filters, stride in zip(self.filters, self.strides, strict=True):
            x = _convolution(x, filters, stride)
            x = keras.layers.ReLU()(x)
        return x


@dataclass
class ResNet(Backbone):
    """A small residual network for small images, without its pooling and Dense layers.

    Three stages of basic blocks with 16, 32 and 64 channels, the last two beginning with stride 2, as in He et al.,
    "Deep Residual Learning for Image Recognition", 2015, section 4.2; n blocks a stage make 6n + 1 convolutions on
    the main path. Shortcuts that change shape are 1×1 convolutions.

    Attributes:
        filters: Channels of each stage; each stage after the first halves the map.
        blocks: Residual blocks a stage.
    """

    name: str = "resnet"
    filters: list[int] = field(default_factory=lambda: [16, 32, 64])
    blocks: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_layers("filters")
        self.require_at_least("blocks", 1, 1)

    @property
    def minimum_side(self) -> int:
        return 2 ** (len(self.filters) - 1)

    def features(self, images: KerasTensor) -> KerasTensor:
        import keras

        x = keras.layers.Rescaling(1 / 255)(images)
        x = keras.layers.ReLU()(_convolution(x, self.filters[0], stride=1))
        for stage, filters in enumerate(self.filters):
            for block in range(self.blocks):
                stride = 2 if stage > 0 and block == 0 else 1
                shortcut = x
                if stride != 1 or x.shape[-1] != filters:
                    shortcut = _convolution(x, filters, stride, kernel=1)
                x = keras.layers.ReLU()(_convolution(x, filters, stride))
                x = _convolution(x, filters, stride=1)
                x = keras.layers.ReLU()(keras.layers.Add()([x, shortcut]))
        return x


def _convolution(x: KerasTensor, filters: int, stride: int, kernel: int = 3) -> KerasTensor:
    import keras

    # Batch norm has its own offset, so the convolution needs no bias.
    x = keras.layers.Conv2D(filters, kernel, stride, padding="same", use_bias=False)(x)
    # With Keras's 0.99 the moving averages lag hundreds of steps behind, which is whole epochs of a small dataset.
    return keras.layers.BatchNormalization(momentum=0.9)(x)
