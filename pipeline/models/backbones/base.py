"""What every backbone does: build itself, and say what map it makes of an image."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from omegaconf import MISSING

from pipeline.common.errors import UserError
from pipeline.common.settings import Settings, is_count
from pipeline.common.size import Size, size_text

if TYPE_CHECKING:
    import keras
    from keras import KerasTensor


class FeatureCache(Enum):
    """The numbers in which feature maps of a frozen backbone are kept on disk; or that none are."""

    float32 = "float32"
    float16 = "float16"
    none = "none"


class ImageSizeError(UserError):
    """The backbone cannot take images of this size.

    Args:
        rule: What an image must satisfy, and what was received.
        remedy: What to do instead.
    """

    def __init__(self, rule: str, remedy: str) -> None:
        super().__init__(f"{rule}. {remedy}")
        self.rule = rule


class ImageTooSmallError(ImageSizeError):
    """The image has no room for the backbone's strides."""

    def __init__(self, rule: str) -> None:
        super().__init__(rule, "Use larger images (dataset.image_size) or a backbone with fewer strides.")


@dataclass
class Backbone(Settings, ABC):
    """What all backbones share.

    Attributes:
        name: The backbone's name in configurations and in MLflow.
        trainable: Train all of its weights too. False leaves all of them as they are, and batch norm uses its moving
            averages, which stay as well; dropout goes on.
        feature_cache: With `trainable=false`, feature maps are computed once for all heads, seeds and processes of an
            `output_dir`, and kept there as `float32` or, rounded, as `float16`; `none` computes them in each step.
        feature_cache_gb: Gigabytes that all kept maps take at most; those that were used longest ago make room.
    """

    name: str = MISSING
    trainable: bool = True
    feature_cache: FeatureCache = FeatureCache.float32
    feature_cache_gb: float = 20.0

    group: ClassVar[str] = "backbone"

    def __post_init__(self) -> None:
        self.require_own_name()
        self.require("feature_cache_gb", 0 < self.feature_cache_gb < math.inf, "must be a number above 0", example=20)

    def require_layers(self, name: str, example: str) -> None:
        """Raises `ConfigError`, which shows an example, unless a setting holds a number for each of some layers."""
        values = getattr(self, name)
        self.require(
            name,
            len(values) > 0 and all(map(is_count, values)),
            "needs at least one layer, and each number must lie in [1, 2³¹)",
            example=example,
        )

    @abstractmethod
    def features(self, images: KerasTensor) -> KerasTensor:
        """Maps raw pixels (N, ?, ?, C), 0 to 255, to the feature map (N, ?, ?, F)."""

    @property
    def minimum_side(self) -> int:
        """Smallest height and width in pixels; a smaller image would be mostly padding."""
        return 1

    @property
    def file(self) -> Path | None:
        """File that the weights come from; None where they are drawn by the seed."""
        return None

    @property
    def uri(self) -> str | None:
        """MLflow URI of the model that it is made of, before `with_file`; None where it needs no MLflow."""
        return None

    def with_file(self, path: Path) -> Backbone:
        """The same backbone, made of a file: the model of its `uri`, brought to this machine."""
        raise NotImplementedError(f"backbone={self.name} has no uri")

    def build(self, channels: int) -> keras.Model:
        """Builds the extractor.

        Args:
            channels: Channels C of the images.

        Returns:
            A model named `backbone` from uint8 (N, ?, ?, C) to (N, ?, ?, F).
        """
        import keras

        inputs = keras.Input((None, None, channels), dtype="uint8", name="pixels")
        extractor = keras.Model(inputs, self.features(inputs), name="backbone")
        # Keras hands on a change and nothing but a change, and some layers of a user's model may come frozen.
        extractor.trainable = False
        extractor.trainable = self.trainable
        return extractor

    def map_shape(self, built: keras.Model, size: Size) -> tuple[int, int, int]:
        """Shape (h, w, F) of the feature map of an image.

        Args:
            built: What `build` returned.
            size: Height and width of the image in pixels.

        Raises:
            ImageSizeError: The backbone cannot take the image, most often as an `ImageTooSmallError`: there is no room
                for the strides.
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
