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
    """A plain stack of convolutions with batch norm and ReLU.

    Feature map of one axis, image of m pixels: ⌈m / s⌉ for each stride s in turn. A cell of it sees
    1 + Σ (k − 1) · d · j pixels along an axis: for each layer its kernel k, its dilation d, and the product j of the
    strides before it. So what a cell sees can be changed without changing the map, by dilations even without changing
    the weights.

    Attributes:
        filters: Channels of each layer.
        strides: Stride of each layer.
        kernels: Height and width of each layer's kernel; null for 3 everywhere.
        dilations: How many cells apart the kernel of each layer looks; null for 1 everywhere.
    """

    name: str = "small_fcn"
    filters: list[int] = field(default_factory=lambda: [32, 32, 64, 64])
    strides: list[int] = field(default_factory=lambda: [1, 2, 1, 2])
    kernels: list[int] | None = None
    dilations: list[int] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_layers("filters", "[32,64]")
        for name, usual in (("strides", 1), ("kernels", 3), ("dilations", 1)):
            if getattr(self, name) is not None:
                self._require_one_each(name, usual)
        strided_and_dilated = [
            layer for layer in zip(self.strides, self._dilations, strict=True) if layer[0] > 1 and layer[1] > 1
        ]
        self.require(
            "dilations",
            not strided_and_dilated,
            f"a layer can have a stride above 1 or a dilation above 1, not both, and backbone.strides={self.strides}",
            f"Use for example backbone.dilations={[1] * len(self.filters)}.",
        )

    def _require_one_each(self, name: str, usual: int) -> None:
        """Raises `ConfigError` unless a setting holds a number for each layer, where the usual one is an example."""
        example = str([usual] * len(self.filters))
        self.require_layers(name, example)
        self.require(
            name,
            len(getattr(self, name)) == len(self.filters),
            f"needs one {name[:-1]} a layer, {len(self.filters)} as in backbone.filters={self.filters}",
            example=example,
        )

    @property
    def _kernels(self) -> list[int]:
        return self.kernels or [3] * len(self.filters)

    @property
    def _dilations(self) -> list[int]:
        return self.dilations or [1] * len(self.filters)

    @property
    def minimum_side(self) -> int:
        return math.prod(self.strides)

    def features(self, images: KerasTensor) -> KerasTensor:
        import keras

        x = keras.layers.Rescaling(1 / 255)(images)
        layers = zip(self.filters, self.strides, self._kernels, self._dilations, strict=True)
        for filters, stride, kernel, dilation in layers:
            x = keras.layers.ReLU()(_convolution(x, filters, stride, kernel, dilation))
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
        self.require_layers("filters", "[32,64]")
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


def _convolution(x: KerasTensor, filters: int, stride: int, kernel: int = 3, dilation: int = 1) -> KerasTensor:
    import keras

    # Batch norm has its own offset, so the convolution needs no bias.
    x = keras.layers.Conv2D(filters, kernel, stride, "same", dilation_rate=dilation, use_bias=False)(x)
    # With Keras's 0.99 the moving averages lag hundreds of steps behind, which is whole epochs of a small dataset.
    return keras.layers.BatchNormalization(momentum=0.9)(x)
