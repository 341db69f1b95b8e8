"""Whether what speaks for the true class lies on the object, where its place on a canvas is known.

Zhang et al., "Top-down Neural Attention by Excitation Backprop", 2016, section 4.1: the share of images whose map peaks
on the object, here without their margin of 15 px.
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from pipeline.common.size import Size
from pipeline.models.traced import Function

MOST_IMAGES = 1000
"""That are looked at, at each size."""


class Pointing:
    """The share of images on a canvas whose class activations of the true class are largest on the image laid there.

    A cell lies where its middle does when the map is stretched over the canvas. Maps come in batches; those behind the
    first `MOST_IMAGES` are not looked at.

    Args:
        activations: Of the head, see `class_activations`.
        labels: True classes of the images in the order of their maps, int64 (N,).
        places: Row and column of the canvas where each of them begins, (N,) and (N,).
        image_size: Height and width of each image in pixels.
        canvas_size: Height and width of the canvas.
    """

    def __init__(
        self,
        activations: Function,
        labels: np.ndarray,
        places: tuple[np.ndarray, np.ndarray],
        image_size: Size,
        canvas_size: Size,
    ) -> None:
        self._activations, self._labels = activations, labels
        self._places, self._image_size, self._canvas_size = places, image_size, canvas_size
        self._hits: list[np.ndarray] = []
        self._images = 0

    def add(self, feature_maps: tf.Tensor) -> None:
        """Looks at the next maps, float32 (n, h, w, F)."""
        maps = feature_maps[: MOST_IMAGES - self._images]
        if not len(maps):
            return
        batch = slice(self._images, self._images + len(maps))
        given = self._activations(maps, self._labels[batch]).numpy()
        peaks = np.unravel_index(given.reshape(len(given), -1).argmax(axis=1), given.shape[1:])
        on_image = np.ones(len(given), bool)
        for cell, cells, first, side, of_canvas in zip(
            *(peaks, given.shape[1:], self._places, self._image_size, self._canvas_size), strict=True
        ):
            middle = (cell + 0.5) * of_canvas / cells
            on_image &= (first[batch] <= middle) & (middle < first[batch] + side)
        self._hits.append(on_image)
        self._images += len(given)

    @property
    def share(self) -> float:
        """Of the images so far."""
        return float(np.concatenate(self._hits).mean())
