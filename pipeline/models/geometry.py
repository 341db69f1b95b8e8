"""What a backbone makes of images of any size, and what its cells see of them, whatever its weights."""

from __future__ import annotations

from functools import cached_property

import keras
import numpy as np
import tensorflow as tf

from pipeline.common.bounded import Bounded
from pipeline.common.size import Size
from pipeline.models.backbones.base import Backbone
from pipeline.models.reach import Reach, reach_of
from pipeline.models.receptive_field import ReceptiveField, receptive_field_of

MOST_KEPT = 4
"""Backbones whose geometry a process keeps."""


class Geometry:
    """What a backbone makes of images of any size; each answer is found once.

    Args:
        backbone: The extractor's configuration.
        channels: Channels C of the images.

    Attributes:
        parameters: Numbers in all of the extractor's weights.
    """

    def __init__(self, backbone: Backbone, channels: int) -> None:
        self._backbone = backbone
        with tf.device("CPU"):  # Where `reach_of` computes; a GPU's memory is for training.
            self._extractor = backbone.build(channels)
        self.parameters: int = self._extractor.count_params()
        self._map_shapes: dict[Size, tuple[int, int, int]] = {}
        self._seen_pixels: dict[tuple[bytes, Size], np.ndarray] = {}

    def map_shape(self, size: Size) -> tuple[int, int, int]:
        """Shape (h, w, F) of the feature map of an image of a size in pixels; for what is raised see `Backbone`."""
        # A model of any make is run for it.
        if size not in self._map_shapes:
            self._map_shapes[size] = self._backbone.map_shape(self._extractor, size)
        return self._map_shapes[size]

    def seen_pixels(self, cells: np.ndarray, size: Size) -> np.ndarray:
        """The pixels of an image of `size`, bool (*size), that some of the cells, bool (H, W), of its map depend on."""
        key = cells.tobytes(), size
        if key not in self._seen_pixels:
            self._seen_pixels[key] = self._reach(cells, size)
        return self._seen_pixels[key]

    @cached_property
    def receptive_field(self) -> ReceptiveField | None:
        """What a cell of the map sees; None if that cannot be told."""
        return receptive_field_of(self._extractor, self._reach)

    @cached_property
    def _reach(self) -> Reach:
        return reach_of(self._extractor)


_kept: Bounded[Geometry] = Bounded(MOST_KEPT)


def geometry_of(backbone: Backbone, channels: int) -> Geometry:
    """The geometry of a backbone, which the runs of this process share: building and tracing takes seconds."""
    file = backbone.file
    written = None if file is None else (file.stat().st_mtime_ns, file.stat().st_size)
    key = (repr(backbone), channels, keras.config.dtype_policy().name, written)
    return _kept.of(key, lambda: Geometry(backbone, channels))
