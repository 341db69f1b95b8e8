"""Fully convolutional feature extractors: raw uint8 images (N, H, W, C) to feature maps (N, h, w, F).

Every backbone is built at unknown height and width, whatever the head: one function for all sizes, so that heads
differ in nothing but how they collapse the map. (Some of `keras.applications` pad differently when they are built
for a fixed size.) Each brings its own pixel scaling, so that a served model takes raw pixels.

- `base`: what they share
- `small`: networks for small images, trained from scratch
- `pretrained`: networks that are there already
- `cutting`: cuts the extractor out of a saved model

Keras is imported where a model is built, so that composing a configuration stays fast.
"""

from pipeline.backbones.base import Backbone, ImageSizeError, ImageTooSmallError
from pipeline.backbones.pretrained import FromModel, KerasApplication
from pipeline.backbones.small import ResNet, SmallFcn

__all__ = [
    "BACKBONES",
    "Backbone",
    "FromModel",
    "ImageSizeError",
    "ImageTooSmallError",
    "KerasApplication",
    "ResNet",
    "SmallFcn",
]

BACKBONES: tuple[type[Backbone], ...] = (SmallFcn, ResNet, KerasApplication, FromModel)
"""The backbones that `backbone=NAME` offers."""
