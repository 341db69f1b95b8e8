"""Attention over the cells of the map with one learned query, then Dense."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from pipeline.common.size import Size
from pipeline.heads.base import POOLING_DTYPE
from pipeline.heads.global_pools import GlobalPool

if TYPE_CHECKING:
    from keras import KerasTensor


@dataclass
class AttentionPool(GlobalPool):
    """Multi-head attention of one learned query to the cells, over a map of any size, then Dense.

    Each attention head is a weighted mean over the cells, whose weights depend on what is in them. No cell knows its
    place: without position embeddings the order of the cells means nothing, and there is none to fit to another size.
    Weights of the head without hidden layers, A attention heads of width d = ⌈C / A⌉: the query C; query, key and value
    3·(C + 1)·A·d; output (A·d + 1)·C; and Dense C·K + K. Where A divides C, that is C + 4·C·(C + 1) + C·K + K.
    Source: Lee et al., "Set Transformer", 2019, section 3.2, pooling by multihead attention with one seed vector, and
    nothing else of its block; as timm, layers/attention_pool.py, without MLP.

    Attributes:
        attention_heads: Attention heads A.
    """

    name: str = "attention_pool"
    attention_heads: int = 4

    color: ClassVar[str] = "#999999"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require("attention_heads", 1 <= self.attention_heads <= 1024, "must lie in [1, 1024]", example=4)

    def _width(self, channels: int) -> int:
        return -(-channels // self.attention_heads)

    def collapse(self, feature_map: KerasTensor, native: Size) -> KerasTensor:
        import keras
        from keras import ops

        channels = feature_map.shape[-1]
        # The weights of a Dense layer on a 1 are a learned vector, and need no layer of our own.
        one = ops.cast(ops.ones_like(feature_map[:, 0, 0, :1]), POOLING_DTYPE)
        query = keras.layers.Dense(
            channels,
            use_bias=False,
            kernel_initializer=keras.initializers.TruncatedNormal(stddev=channels**-0.5),  # As timm's.
            dtype=POOLING_DTYPE,
            name="query",
        )(one)
        attention = keras.layers.MultiHeadAttention(
            self.attention_heads, self._width(channels), dtype=POOLING_DTYPE, name="attention"
        )
        cells = keras.layers.Reshape((-1, channels), dtype=POOLING_DTYPE)(feature_map)
        pooled = attention(keras.layers.Reshape((1, channels), dtype=POOLING_DTYPE)(query), cells)
        return keras.layers.Reshape((channels,), dtype=POOLING_DTYPE)(pooled)

    def parameters(self, map_shape: tuple[int, int, int], classes: int) -> int:
        channels = map_shape[2]
        width = self.attention_heads * self._width(channels)
        attention = channels + 3 * (channels + 1) * width + (width + 1) * channels
        return attention + super().parameters(map_shape, classes)
