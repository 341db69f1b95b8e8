"""The window of AveragePooling2D grows with the map."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.heads.base import POOLING_DTYPE
from pipeline.other_sizes.parts import Collapse, Parts
from pipeline.other_sizes.ways.base import MapWay, apply_layers

if TYPE_CHECKING:
    from keras import KerasTensor


class GrowingWindow(MapWay):
    name = "global_pool"
    rule = "the window of AveragePooling2D grows with the map, which makes it GlobalAveragePooling2D"
    source = "Lin, Chen, Yan, Network In Network, 2013, section 3.2"
    color, marker, line = "#0072B2", "D", "-."
    collapses = (Collapse.average,)

    def outputs(self, feature_map: KerasTensor, parts: Parts) -> KerasTensor:
        import keras

        return apply_layers(parts.dense, keras.layers.GlobalAveragePooling2D(dtype=POOLING_DTYPE)(feature_map))
