"""Networks that are there already, with or without trained weights."""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from omegaconf import MISSING

from pipeline.common.errors import first_line
from pipeline.common.files import expanded
from pipeline.common.size import Size, size_text
from pipeline.models.backbones.base import Backbone, ImageSizeError
from pipeline.models.keras_file import MODEL_URIS, check_keras_file

if TYPE_CHECKING:
    import keras
    from keras import KerasTensor

IMAGENET = "imagenet"
"""In place of a file: the weights that Keras offers for download."""


@dataclass
class KerasApplication(Backbone):
    """Any network of `keras.applications`, without its top.

    The network's own `preprocess_input` comes first, so that trained weights meet the pixels that they were trained on;
    grayscale images are repeated to three channels for it. Of networks that scale pixels inside, such as EfficientNet
    and ConvNeXt, `preprocess_input` changes nothing, so that pixels are scaled once. EfficientNet needs
    `weights=imagenet` for Keras's own weights: from a file, Keras builds it without a scaling layer that these need.

    Attributes:
        application: Name in `keras.applications`, such as `MobileNetV2`.
        weights: `imagenet` for the weights that Keras offers, which it downloads; or the path of a weights file made
            without the top; null starts from random weights.
    """

    name: str = "keras_application"
    application: str = "MobileNetV2"
    weights: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(
            "weights",
            self.weights in (None, IMAGENET) or expanded(self.weights).is_file(),
            "must be null, imagenet, or the path of a weights file",
            "Use backbone.weights=null for random weights.",
        )

    @property
    def file(self) -> Path | None:
        if self.weights == IMAGENET:
            from pipeline.models.imagenet import imagenet_file

            return imagenet_file(self.network)
        return None if self.weights is None else expanded(self.weights)

    @property
    def network(self) -> Callable[..., keras.Model]:
        """What builds the network."""
        import keras

        network = getattr(keras.applications, self.application, None)
        if not isinstance(network, type(keras.applications.MobileNetV2)):
            names = [name for name in dir(keras.applications) if name[0].isupper()]
            raise self.error("application", "is not a network of keras.applications", f"Use one of {', '.join(names)}.")
        return network

    def preprocessed(self, images: KerasTensor) -> KerasTensor:
        """Raw pixels (N, ?, ?, C) as the network takes them, (N, ?, ?, C), where one channel becomes three."""
        import sys

        import keras

        x = keras.layers.Rescaling(1.0)(images)
        if x.shape[-1] == 1:
            x = keras.layers.Concatenate()([x, x, x])
        return sys.modules[self.network.__module__].preprocess_input(x)

    def features(self, images: KerasTensor) -> KerasTensor:
        x, file = self.preprocessed(images), self.file
        weights = self.weights if file is None or self.weights == IMAGENET else str(file)
        try:
            with warnings.catch_warnings():
                # Of MobileNets, which have weights for several sizes, and take those for 224 px.
                warnings.filterwarnings("ignore", "`input_shape` is undefined")
                extractor = self.network(include_top=False, weights=weights, input_shape=(None, None, x.shape[-1]))
        except (ValueError, OSError) as error:
            if weights is None:
                raise
            raise self.error(
                "weights",
                f"does not fit {self.application}: {first_line(error)}",
                "Use a weights file of this network without its top.",
            ) from error
        return extractor(x)


@dataclass
class FromModel(Backbone):
    """A Keras model of the user's own, cut at its last feature map; `cutting` says where that is.

    Its weights are those of the file, unless `fresh_weights` says otherwise. Grayscale images are repeated to three
    channels where the model takes three.

    Attributes:
        path: The model: a `.keras` file, or an MLflow URI, `models:/NAME/VERSION` or `runs:/RUN_ID/model`.
        layer: Name of the layer to cut after; null for the last feature map.
        scale: The model gets pixels · scale + offset; 1/255 = 0.003922 if it was trained on numbers from 0 to 1.
        offset: See `scale`.
        fresh_weights: Draw all weights anew by the run's seed: the same layers from scratch, to compare with. The scale
            of `Normalization` layers stays; an initializer with a seed of its own draws by that.
    """

    name: str = "from_model"
    path: str = MISSING
    layer: str | None = None
    scale: float = 1.0
    offset: float = 0.0
    fresh_weights: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.uri is None:
            check_keras_file(self.file, "backbone.path")
        self.require(
            "scale", self.scale != 0 and math.isfinite(self.scale), "must be a finite number other than 0", example=1
        )
        self.require("offset", math.isfinite(self.offset), "must be a finite number", example=0)

    @property
    def uri(self) -> str | None:
        return self.path if self.path.startswith(MODEL_URIS) else None

    def with_file(self, path: Path) -> Backbone:
        return dataclasses.replace(self, path=str(path))

    @property
    def file(self) -> Path:
        return expanded(self.path)

    def features(self, images: KerasTensor) -> KerasTensor:
        import keras

        from pipeline.models.cutting import extractor_of

        extractor = extractor_of(self.file, self.layer)
        if self.fresh_weights:
            extractor = _with_fresh_weights(extractor)
        # In float32 under any precision: the weights were trained on exact pixels.
        x = keras.layers.Rescaling(self.scale, self.offset, dtype="float32")(images)
        channels, wanted = images.shape[-1], extractor.input_shape[-1]
        if (channels, wanted) == (1, 3):
            x = keras.layers.Concatenate(dtype="float32")([x, x, x])
        elif channels != wanted:
            raise self.error(
                "path",
                f"takes images (N, H, W, {wanted}), and the dataset's are (N, H, W, {channels})",
                "Use another dataset or another model.",
            )
        return extractor(x)

    def map_shape(self, built: keras.Model, size: Size) -> tuple[int, int, int]:
        try:
            shape = super().map_shape(built, size)
            # Run, not only reckoned: a model of any make may fail at some sizes, as a U-Net does at odd ones.
            built(np.zeros((1, *size, built.input_shape[-1]), np.uint8), training=False)
        except ImageSizeError:
            raise
        except Exception as error:  # Each layer has its own way of failing.
            raise ImageSizeError(
                f"backbone={self.name} cannot take images of {size_text(size)} px: {first_line(error)}",
                "Use images of another size (dataset.image_size), or cut the model earlier (backbone.layer).",
            ) from error
        return shape


def _with_fresh_weights(extractor: keras.Model) -> keras.Model:
    import keras

    from pipeline.models.graph import leaves

    fresh = keras.models.clone_model(extractor)
    for old, new in zip(leaves(extractor), leaves(fresh), strict=True):
        if isinstance(old, keras.layers.Normalization) and old.weights:
            # How pixels are scaled is nothing that is learned from classes.
            new.set_weights(old.get_weights())
            new.finalize_state()
    return fresh
