"""The feature map is brought to the size that it had in training."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.common.size import Size
from pipeline.heads.adaptive_pooling import adaptive_average_pool
from pipeline.heads.base import POOLING_DTYPE
from pipeline.other_sizes.parts import Collapse, Parts
from pipeline.other_sizes.ways.base import MapWay, apply_layers

if TYPE_CHECKING:
    from keras import KerasTensor


class ResizeMap(MapWay):
    name = "resize_map"
    rule = "the feature map is averaged in bins to the size that it had in training, then flattened"
    source = "He, Zhang, Ren, Sun, Spatial Pyramid Pooling, 2014, section 3.1, with one level and averages"
    color, marker, line = "#D55E00", "^", "-"
    collapses = (Collapse.flatten,)

    def outputs(self, feature_map: KerasTensor, parts: Parts) -> KerasTensor:
        import keras

        resized = self.resize(feature_map, parts.map_size)
        return apply_layers(parts.dense, keras.layers.Flatten(dtype=POOLING_DTYPE)(resized))

    def resize(self, feature_map: KerasTensor, size: Size) -> KerasTensor:
        """The map (N, ?, ?, F) brought to float32 (N, *size, F)."""
        return adaptive_average_pool(feature_map, size)


class InterpolateMap(ResizeMap):
    name = "interpolate_map"
    rule = "the feature map is interpolated (bilinear, antialiased) to the size that it had in training, then flattened"
    source = "as images are resized; compare the position embeddings of Dosovitskiy et al., 2020, section 3.2"
    color, marker, line = "#E69F00", "v", "--"

    def resize(self, feature_map: KerasTensor, size: Size) -> KerasTensor:
        from keras import ops

        return ops.image.resize(ops.cast(feature_map, POOLING_DTYPE), size, "bilinear", antialias=True)
