"""The Dense layers become convolutions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from pipeline.common.size import Size, size_text
from pipeline.heads.base import POOLING_DTYPE
from pipeline.other_sizes.parts import Collapse, Parts
from pipeline.other_sizes.ways.base import MapWay, apply_layers

if TYPE_CHECKING:
    import keras
    from keras import KerasTensor


class DenseToConv(MapWay):
    name = "dense_to_conv"
    rule = "the Dense layers become convolutions that answer at every position; their answers are averaged"
    source = (
        "Sermanet et al., OverFeat, 2013, section 3.5; Long, Shelhamer, Darrell, Fully Convolutional Networks, 2014"
    )
    color, marker, line = "#009E73", "P", "-."
    collapses = tuple(Collapse)

    def is_for(self, parts: Parts | None) -> bool:
        from pipeline.other_sizes.vector_layers import goes_on_maps, is_alike

        if parts is None or not parts.has_dense or not super().is_for(parts):
            return False
        body, _, _ = _split_at_last(parts.dense)
        # Before the first Dense layer, a flattened map is no vector at each position.
        flattened = parts.before_dense if parts.collapse is Collapse.flatten else ()
        return all(map(goes_on_maps, body)) and all(map(is_alike, flattened))

    def refusal(self, native: Size, size: Size) -> str | None:
        if size[0] >= native[0] and size[1] >= native[1]:
            return None
        return f"the {size_text(native)} window of the trained weights does not fit into the {size_text(size)} map"

    def outputs(self, feature_map: KerasTensor, parts: Parts) -> KerasTensor:
        import keras

        from pipeline.other_sizes.vector_layers import of_rank

        x = _at_least(feature_map, parts.map_size)
        if parts.collapse is not Collapse.flatten:
            maxima = parts.collapse in (Collapse.max, Collapse.global_max)
            pooling = keras.layers.MaxPooling2D if maxima else keras.layers.AveragePooling2D
            x = pooling(parts.map_size, strides=1, dtype=POOLING_DTYPE)(x)
        windows = parts.map_size if parts.collapse is Collapse.flatten else (1, 1)
        body, last, ending = _split_at_last(parts.dense)
        for layer in body:
            if isinstance(layer, keras.layers.Dense):
                x, windows = _as_convolution(layer, x, windows, layer.activation), (1, 1)
            else:
                x = of_rank(layer, 4, x.shape[-1])(x)
        x = self.reduce(_as_convolution(last, x, windows, None))
        return apply_layers(ending, keras.layers.Activation(last.activation, dtype=last.dtype_policy)(x))

    def reduce(self, answers: KerasTensor) -> KerasTensor:
        """One answer (N, K) of the answers at all positions (N, ?, ?, K)."""
        import keras

        return keras.layers.GlobalAveragePooling2D(dtype=POOLING_DTYPE)(answers)


class DenseToConvMeanMax(DenseToConv):
    name = "dense_to_conv_mean_max"
    rule = "as dense_to_conv, but the mean of the average and the largest of the answers of each class"
    source = "timm, layers/test_time_pool.py, the default of TestTimePoolHead"
    color, marker, line = "#CC79A7", "X", ":"

    def reduce(self, answers: KerasTensor) -> KerasTensor:
        import keras

        return (super().reduce(answers) + keras.layers.GlobalMaxPooling2D(dtype=POOLING_DTYPE)(answers)) / 2


def _at_least(feature_map: KerasTensor, size: Size) -> KerasTensor:
    """The map as it is. Where it has fewer cells than `size`, an error: TensorFlow itself gives zero or NaN there."""
    from keras import ops

    x = feature_map
    for axis, cells in ((1, size[0]), (2, size[1])):
        before, after = (x[:, : cells - 1], x[:, cells:]) if axis == 1 else (x[:, :, : cells - 1], x[:, :, cells:])
        needed = x[:, cells - 1] if axis == 1 else x[:, :, cells - 1]
        x = ops.concatenate([before, ops.expand_dims(needed, axis), after], axis=axis)
    return x


def _split_at_last(
    layers: Sequence[keras.Operation],
) -> tuple[Sequence[keras.Operation], keras.layers.Dense, Sequence[keras.Operation]]:
    """The layers before the last Dense layer, that one, and what follows it."""
    import keras

    last = max(index for index, layer in enumerate(layers) if isinstance(layer, keras.layers.Dense))
    return layers[:last], layers[last], layers[last + 1 :]


def _as_convolution(
    dense: keras.layers.Dense, x: KerasTensor, window: Size, activation: Callable[..., KerasTensor] | None
) -> KerasTensor:
    """The Dense layer at every position of a map, over a window of so many cells; flattening is row by row."""
    import keras

    kernel, *bias = dense.get_weights()
    convolution = keras.layers.Conv2D(
        dense.units, window, activation=activation, use_bias=dense.use_bias, dtype=dense.dtype_policy
    )
    answers = convolution(x)
    convolution.set_weights([np.reshape(kernel, (*window, -1, dense.units)), *bias])
    return answers
