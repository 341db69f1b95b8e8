"""Fully convolutional feature extractors: raw uint8 images (N, H, W, C) to feature maps (N, h, w, F).

Every backbone is built at unknown height and width, whatever the head: one function for all sizes, so that heads
differ in nothing but how they collapse the map. (Some of `keras.applications` pad differently when they are built
for a fixed size.) Each brings its own pixel scaling, so that a served model takes raw pixels.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import MISSING

from pipeline.errors import ConfigError, UserError, require, require_at_least, require_own_name
from pipeline.heads import Size, size_text

if TYPE_CHECKING:
    import keras
    from keras import KerasTensor


class ImageTooSmallError(UserError):
    """The image has no room for the backbone's strides.

    Args:
        rule: What an image must satisfy, and what was received.
    """

    def __init__(self, rule: str) -> None:
        super().__init__(f"{rule}. Use larger images (dataset.image_size) or a backbone with fewer strides.")
        self.rule = rule


@dataclass
class Backbone(ABC):
    """What all backbones share.

    Attributes:
        name: The backbone's name in configurations and in MLflow.
    """

    name: str = MISSING

    def __post_init__(self) -> None:
        require_own_name(self, "backbone")

    @abstractmethod
    def features(self, images: KerasTensor) -> KerasTensor:
        """Maps raw pixels (N, ?, ?, C), 0 to 255, to the feature map (N, ?, ?, F)."""

    @property
    def minimum_side(self) -> int:
        """Smallest height and width in pixels; a smaller image would be mostly padding."""
        return 1

    def build(self, channels: int) -> keras.Model:
        """Builds the extractor.

        Args:
            channels: Channels C of the images.

        Returns:
            A model named `backbone` from uint8 (N, ?, ?, C) to (N, ?, ?, F).
        """
        import keras

        inputs = keras.Input((None, None, channels), dtype="uint8", name="pixels")
        return keras.Model(inputs, self.features(inputs), name="backbone")

    def map_shape(self, built: keras.Model, size: Size) -> tuple[int, int, int]:
        """Shape (h, w, F) of the feature map of an image.

        Args:
            built: What `build` returned.
            size: Height and width of the image in pixels.

        Raises:
            ImageTooSmallError: There is no room for the strides.
        """
        if min(size) < self.minimum_side:
            raise ImageTooSmallError(
                f"backbone={self.name} needs images of at least {self.minimum_side}×{self.minimum_side} px, the "
                f"product of its strides; received {size_text(size)} px"
            )
        try:
            _, rows, columns, channels = built.compute_output_shape((None, *size, built.input_shape[-1]))
        except ValueError as error:
            if "zero or negative" not in str(error):
                raise
            rows = columns = 0
        if min(rows, columns) < 1:
            raise ImageTooSmallError(f"backbone={self.name} leaves no feature map of a {size_text(size)} px image")
        return rows, columns, channels


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
        _check_layers("backbone.filters", self.filters)
        _check_layers("backbone.strides", self.strides)
        require(
            len(self.filters) == len(self.strides),
            "backbone.strides",
            self.strides,
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
        _check_layers("backbone.filters", self.filters)
        require_at_least(1, "backbone.blocks", self.blocks, 1)

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


@dataclass
class KerasApplication(Backbone):
    """Any network of `keras.applications`, without its top.

    The network's own `preprocess_input` comes first, so that weights from a file meet the pixels that they were
    trained on; grayscale images are repeated to three channels for it.

    Attributes:
        application: Name in `keras.applications`, such as `MobileNetV2`.
        weights: Path of a weights file made without the top; null starts from random weights.
    """

    name: str = "keras_application"
    application: str = "MobileNetV2"
    weights: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            self.weights is None or Path(self.weights).is_file(),
            "backbone.weights",
            self.weights,
            "must be null or the path of a weights file",
            "Use backbone.weights=null for random weights.",
        )

    def features(self, images: KerasTensor) -> KerasTensor:
        import sys

        import keras

        network = getattr(keras.applications, self.application, None)
        if not isinstance(network, type(keras.applications.MobileNetV2)):
            names = [name for name in dir(keras.applications) if name[0].isupper()]
            raise ConfigError(
                "backbone.application",
                self.application,
                "is not a network of keras.applications",
                f"Use one of {', '.join(names)}.",
            )
        x = keras.layers.Rescaling(1.0)(images)
        if x.shape[-1] == 1:
            x = keras.layers.Concatenate()([x, x, x])
        x = sys.modules[network.__module__].preprocess_input(x)
        try:
            extractor = network(include_top=False, weights=self.weights, input_shape=(None, None, x.shape[-1]))
        except ValueError as error:
            if self.weights is None:
                raise
            raise ConfigError(
                "backbone.weights", self.weights, f"does not fit {self.application}: {error}", "Use another file."
            ) from error
        return extractor(x)


BACKBONES: tuple[type[Backbone], ...] = (SmallFcn, ResNet, KerasApplication)
"""The backbones that `backbone=NAME` offers."""


def _convolution(x: KerasTensor, filters: int, stride: int, kernel: int = 3) -> KerasTensor:
    import keras

    # Batch norm has its own offset, so the convolution needs no bias.
    x = keras.layers.Conv2D(filters, kernel, stride, padding="same", use_bias=False)(x)
    # With Keras's 0.99 the moving averages lag hundreds of steps behind, which is whole epochs of a small dataset.
    return keras.layers.BatchNormalization(momentum=0.9)(x)


def _check_layers(key: str, values: list[int]) -> None:
    require(
        len(values) > 0 and all(value >= 1 for value in values),
        key,
        values,
        "needs at least one layer, and each number must be at least 1",
        f"Use for example {key}=[{'1,2,1,2' if key.endswith('strides') else '32,64'}].",
    )
