"""Images are resized to the size of training."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.common.size import Size
from pipeline.other_sizes.parts import Parts
from pipeline.other_sizes.ways.base import ImageWay

if TYPE_CHECKING:
    import keras


class ResizeInput(ImageWay):
    name = "resize_input"
    rule = "images are resized (bilinear, antialiased) to the size of training; the model stays as it is"
    color, marker, line = "#56B4E9", "s", "--"

    def convert(self, model: keras.Model, parts: Parts | None, image_size: Size) -> keras.Model:
        import keras
        from keras import ops

        images = keras.Input((None, None, model.input_shape[-1]), dtype=model.inputs[0].dtype)
        # Not keras.layers.Resizing: called eagerly, that makes a model behind it run, and learn, as in training.
        resized = ops.image.resize(ops.cast(images, "float32"), image_size, "bilinear", antialias=True)
        if "int" in model.inputs[0].dtype:
            resized = ops.cast(ops.clip(ops.round(resized), 0, 255), model.inputs[0].dtype)
        return keras.Model(images, model(resized))
