"""What every way to run a trained model at other sizes does.

A `Way` keeps the weights, and gives the same answers as the model itself at its own size; a `RefitWay` fits some of
them again. At other sizes they are different models, and which one is accurate there is a question for measurement.
They are made of Keras's own layers and operations: a converted model loads wherever Keras does, in safe mode. Keras is
imported where a model is converted, so that composing a configuration stays fast.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from pipeline.common.size import Size
from pipeline.other_sizes.parts import Collapse, Parts

if TYPE_CHECKING:
    import keras
    from keras import KerasTensor


class NamedWay(ABC):
    """How a way is named, explained and drawn.

    Attributes:
        name: In configurations, metrics and file names.
        rule: What it does, in a sentence.
        source: Where it comes from.
        color: Of its line in charts (Okabe and Ito's palette).
        marker: Of its points in charts, as Matplotlib names it.
        line: Its style in charts, as Matplotlib names it.
    """

    name: ClassVar[str]
    rule: ClassVar[str]
    source: ClassVar[str]
    color: ClassVar[str] = "#999999"
    marker: ClassVar[str] = "."
    line: ClassVar[str] = "-"


class Way(NamedWay):
    """One way to run a trained model, with the weights that it has, at other sizes."""

    @abstractmethod
    def is_for(self, parts: Parts | None) -> bool:
        """Whether a model can be run in this way; None is one that could not be taken apart."""

    @abstractmethod
    def convert(self, model: keras.Model, parts: Parts | None, image_size: Size) -> keras.Model:
        """The whole model for images of any size, from (N, ?, ?, C) to (N, K). It shares the weights of `model`.

        Args:
            model: From images of `image_size`, or of any size, to outputs (N, K).
            parts: The same, taken apart; None if it could not be.
            image_size: Height and width in pixels of the training images.
        """

    def refusal(self, native: Size, size: Size) -> str | None:
        """Why a map of `size` cannot be taken by a model whose own maps have size `native`; None if it can."""
        return None


class RefitWay(NamedWay):
    """A way that fits weights again: it needs training images and takes time, so it is used where it is asked for.

    Attributes:
        for_all_sizes: Whether one fit is for all sizes; if not, each size has its own, and at the size of training the
            model stays as it is.
    """

    for_all_sizes: ClassVar[bool]


class ImageWay(Way):
    """A way that changes the images, and leaves any model as it is."""

    source = ""

    def is_for(self, parts: Parts | None) -> bool:
        return True


class MapWay(Way):
    """A way that changes what comes after the feature map, of models that end in one of some collapses.

    Attributes:
        collapses: The collapses that it is for.
    """

    collapses: ClassVar[tuple[Collapse, ...]]

    @abstractmethod
    def outputs(self, feature_map: KerasTensor, parts: Parts) -> KerasTensor:
        """The model's outputs (N, K) for a feature map (N, ?, ?, F) of any size."""

    def is_for(self, parts: Parts | None) -> bool:
        return parts is not None and parts.collapse in self.collapses

    def convert(self, model: keras.Model, parts: Parts | None, image_size: Size) -> keras.Model:
        import keras

        assert parts is not None
        images = keras.Input((None, None, parts.extractor.input_shape[-1]), dtype=parts.extractor.input.dtype)
        return keras.Model(images, self.outputs(parts.extractor(images), parts))


def apply_layers(layers: Sequence[keras.Operation], x: KerasTensor) -> KerasTensor:
    """What the layers, one after the other, make of `x`."""
    for layer in layers:
        x = layer(x)
    return x
