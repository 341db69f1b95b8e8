"""The window of a pooling over the whole map grows with it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.heads.base import POOLING_DTYPE
from pipeline.other_sizes.parts import Collapse, Parts
from pipeline.other_sizes.ways.base import MapWay, apply_layers

if TYPE_CHECKING:
    from keras import KerasTensor


class GrowingWindow(MapWay):
    name = "global_pool"
    rule = "the window of the pooling over the whole map grows with it, as that of global pooling"
    source = "Lin, Chen, Yan, Network In Network, 2013, section 3.2"
    color, marker, line = "#0072B2", "D", "-."
    collapses = (Collapse.average, Collapse.max)

    def outputs(self, feature_map: KerasTensor, parts: Parts) -> KerasTensor:
        import keras

        maxima = parts.collapse is Collapse.max
        pooling = keras.layers.GlobalMaxPooling2D if maxima else keras.layers.GlobalAveragePooling2D
        return apply_layers(parts.dense, pooling(dtype=POOLING_DTYPE)(feature_map))
