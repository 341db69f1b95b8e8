"""Pooling to a fixed number of bins from maps of any size, compiled, exported and with unknown sizes.

Bin i of n over m cells holds the cells from ⌊i·m / n⌋ to ⌈(i + 1)·m / n⌉ − 1: neighbours share cells where n does not
divide m, and where m < n. (The definition of He et al., "Spatial Pyramid Pooling in Deep Convolutional Networks", 2014,
section 3.1, and of the layers called adaptive pooling.)

Keras's own AdaptiveAveragePooling2D fails on TensorFlow where sizes are unknown. Everything here is made of `keras.ops`
on symbolic tensors and no layer of our own, so that a saved model loads wherever Keras does, in safe mode.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pipeline.common.size import Size
from pipeline.heads.base import POOLING_DTYPE

if TYPE_CHECKING:
    from keras import KerasTensor


def adaptive_average_pool(feature_map: KerasTensor, bins: Size) -> KerasTensor:
    """Means over each bin: (N, H, W, C) to float32 (N, *bins, C). The same map where it has the size of `bins`."""
    from keras import ops

    feature_map = ops.cast(feature_map, POOLING_DTYPE)

    def weights(axis: int) -> KerasTensor:
        inside = ops.cast(_cells_in_bins(feature_map, axis, bins[axis - 1]), POOLING_DTYPE)
        return ops.divide(inside, ops.sum(inside, axis=1, keepdims=True))

    rows_pooled = ops.einsum("ih,nhwc->niwc", weights(1), feature_map)
    pooled = ops.einsum("jw,niwc->nijc", weights(2), rows_pooled)
    return ops.reshape(pooled, (-1, *bins, feature_map.shape[-1]))  # Keras loses the shape of a lone bin.


def adaptive_max_pool(feature_map: KerasTensor, bins: Size) -> KerasTensor:
    """Maxima over each bin: (N, H, W, C) to (N, *bins, C)."""
    from keras import ops

    rows, columns = bins
    in_row = ops.reshape(_cells_in_bins(feature_map, 1, rows), (1, rows, -1, 1, 1))
    in_column = ops.reshape(_cells_in_bins(feature_map, 2, columns), (1, 1, columns, -1, 1))
    rows_pooled = ops.max(ops.where(in_row, ops.expand_dims(feature_map, 1), -np.inf), axis=2)
    return ops.max(ops.where(in_column, ops.expand_dims(rows_pooled, 2), -np.inf), axis=3)


def _cells_in_bins(feature_map: KerasTensor, axis: int, bins: int) -> KerasTensor:
    """Which cells along an axis, 1 or 2, belong to which bin: bool (bins, cells)."""
    from keras import ops

    # A symbolic tensor has no size yet: its cells are counted when there are some.
    line = feature_map[:1, :, 0, 0] if axis == 1 else feature_map[:1, 0, :, 0]
    position = ops.cumsum(ops.cast(ops.ones_like(line), "int32"), axis=1)  # 1 … m
    cells = ops.max(position, axis=1, keepdims=True)
    # In integers: compiled, m·i / n comes out just below the whole number that it is.
    index = np.arange(bins, dtype="int32").reshape(-1, 1)
    before = ops.floor_divide(ops.multiply(cells, index), bins)
    last = ops.floor_divide(ops.add(ops.multiply(cells, index + 1), bins - 1), bins)
    return ops.logical_and(ops.greater(position, before), ops.less_equal(position, last))
