"""Backbone + head = `keras.Model`, for images of one size or of any."""

from __future__ import annotations

import keras

from pipeline.common.size import Size
from pipeline.heads.base import Head
from pipeline.models.backbones.base import Backbone


def build_model(
    backbone: Backbone, head: Head, image_shape: tuple[int, int, int], classes: int, seed: int
) -> keras.Model:
    """Builds an untrained model.

    The seed is set anew before each part: all heads start from bit-identical backbone weights, and heads whose Dense
    layers have the same shapes start from the same ones there too.

    Args:
        backbone: The extractor's configuration.
        head: The head's configuration.
        image_shape: (H, W, C) of the training images in pixels.
        classes: Number of classes K.
        seed: Seed of the initial weights.

    Returns:
        A model from raw uint8 pixels (N, H, W, C), or (N, ?, ?, C) if the head takes any size, to logits (N, K). Its
        two layers with weights are models named `backbone` and `head`.

    Raises:
        ImageSizeError: The backbone cannot take the images.
        ConfigError: The head cannot take that feature map.
    """
    *size, channels = image_shape
    keras.utils.set_random_seed(seed)
    extractor = backbone.build(channels)
    map_shape = backbone.map_shape(extractor, (size[0], size[1]))
    keras.utils.set_random_seed(seed)
    top = head.build(map_shape, classes)
    return join(extractor, top, (None, None) if head.takes_any_size else (size[0], size[1]))


def join(backbone: keras.Model, head: keras.Model, size: Size | tuple[None, None]) -> keras.Model:
    """The model `head(backbone(pixels))` for images of `size`, sharing the weights of both."""
    pixels = keras.Input((*size, backbone.input_shape[-1]), dtype="uint8", name="pixels")
    return keras.Model(pixels, head(backbone(pixels)))
