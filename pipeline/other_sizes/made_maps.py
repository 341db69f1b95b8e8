"""Feature maps of a split's images that are brought to another size in each mode."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Iterator, Mapping

import numpy as np
import tensorflow as tf

from pipeline.common.bounded import Bounded
from pipeline.common.condition import AS_IS, Mode
from pipeline.common.digest import digest_of
from pipeline.common.size import Size, size_text
from pipeline.data.splits import ImageSplit
from pipeline.models.features import FeatureMaps, NoRoomError
from pipeline.models.traced import Function
from pipeline.other_sizes.modes import MAKERS, canvas_places
from pipeline.other_sizes.plan import SizePlan
from pipeline.other_sizes.settings import SizeProbe

log = logging.getLogger("pipeline")

MOST_BYTES = 2**24
"""Of the made images of one size that a process keeps."""
MOST_SIZES = 16
"""Of which it keeps them."""


_kept_images: Bounded[list[Mapping[Mode, np.ndarray]]] = Bounded(MOST_SIZES)


class MadeMaps:
    """Feature maps of some images of a split, made in each mode at any size.

    Args:
        split: Where the images are.
        indices: Which of them, ascending.
        plan: Of what takes the maps.
        probe: How many images make a batch, and the seed of the canvas.
        features: Where the backbone's feature maps are kept; None computes them.

    Attributes:
        order: The indices in the order in which the maps come.
    """

    def __init__(
        self, split: ImageSplit, indices: np.ndarray, plan: SizePlan, probe: SizeProbe, features: FeatureMaps | None
    ) -> None:
        self._split, self._indices, self._plan, self._probe, self._features = split, indices, plan, probe, features
        self.order = split.order(indices)

    def of(self, extractors: Mapping[str, Function], size: Size) -> Iterator[tuple[str, Mode, tf.Tensor]]:
        """Feature maps float32 (n, h, w, F) of the images made in each mode, batch by batch, by extractor.

        Args:
            extractors: What makes a map of images, by name: the backbone under `AS_IS`, and ways that change images.
            size: Height and width of the made images in pixels.
        """
        if self._features is None:
            for by_mode in self._made(size):
                for mode, made in by_mode.items():
                    for name, extract in extractors.items():
                        # The map is shorter under mixed precision.
                        yield name, mode, tf.cast(extract(made), tf.float32)
            return
        for name, extract in extractors.items():
            for mode in MAKERS:
                for maps in self._kept_maps(name, extract, mode, size):
                    yield name, mode, tf.cast(maps, tf.float32)

    def _made(self, size: Size) -> Iterable[Mapping[Mode, np.ndarray]]:
        """The images made in each mode, uint8 (n, *size, C), batch by batch; a few are kept for later runs."""
        split, facts = self._split, self._plan.facts
        made = (
            {mode: np.asarray(make(images, size, *places)) for mode, make in MAKERS.items()}
            for images, places in self._batches(size)
        )
        if facts.natural or len(MAKERS) * len(self._indices) * math.prod((*size, facts.channels)) > MOST_BYTES:
            return made
        pixels = (facts.image_shape, size, self._batch_size(size), self._probe.seed)
        return _kept_images.of((split.digest, digest_of(self._indices), *pixels), lambda: list(made))

    def places(self, size: Size) -> tuple[np.ndarray, np.ndarray]:
        """Row and column where each image begins on a canvas of a size, (N,) and (N,), in the order of the maps."""
        tops, lefts = canvas_places(len(self._split), self._split.size, size, self._probe.seed)
        return tops[self.order], lefts[self.order]

    def _kept_maps(self, name: str, extract: Function, mode: Mode, size: Size) -> Iterator[np.ndarray | tf.Tensor]:
        """The same of one extractor and mode, computed by an earlier run if possible."""
        assert self._features is not None

        def computed() -> Iterator[tf.Tensor]:
            for images, places in self._batches(size):
                yield extract(MAKERS[mode](images, size, *places))

        which = (self._split.digest, digest_of(self._indices))
        images = (*which, size_text(size), mode.value, name, str(self._probe.seed))
        map_size = size if name == AS_IS else self._plan.facts.image_size
        shape = (len(self._indices), *self._plan.geometry.map_shape(map_size))
        try:
            kept = self._features.of(images, shape, computed)
        except NoRoomError as error:
            log.warning("  maps of %s px are computed for this run alone: there is no room, %s", size_text(size), error)
            yield from map(self._features.rounded, computed())
            return
        for start in range(0, len(kept), self._batch_size(size)):
            yield kept[start : start + self._batch_size(size)]

    def _batches(self, size: Size) -> Iterator[tuple[np.ndarray, tuple[np.ndarray, np.ndarray]]]:
        """Images uint8 (n, H, W, C) as they are, and their places, (n,) and (n,), on a canvas of a size."""
        tops, lefts = self.places(size)
        start = 0
        for images, _ in self._split.in_order(self._indices, self._batch_size(size)).as_numpy_iterator():
            batch = slice(start, start := start + len(images))
            yield images, (tops[batch], lefts[batch])

    def _batch_size(self, size: Size) -> int:
        return self._probe.batch_size_at(size, self._plan.facts.image_size)
