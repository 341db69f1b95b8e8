"""Fully convolutional feature extractors: raw uint8 images (N, H, W, C) to feature maps (N, h, w, F).

Every backbone is built at unknown height and width, whatever the head: one function for all sizes, so that heads
differ in nothing but how they collapse the map. (Some of `keras.applications` pad differently when they are built
for a fixed size.) Each brings its own pixel scaling, so that a served model takes raw pixels.

Each class in a file here that has a `name` is one that `backbone=NAME` offers; it needs nothing else but its file in
`conf/backbone/`. Keras is imported where a model is built, so that composing a configuration stays fast.
"""

import sys

from pipeline.common.options import options_in
from pipeline.models.backbones.base import Backbone

BACKBONES: tuple[type[Backbone], ...] = options_in(sys.modules[__name__], Backbone)  # type: ignore[type-abstract]
"""The backbones that `backbone=NAME` offers."""
