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
        return keras.Model(images, _for_floats(model)(resized))


def _for_floats(model: keras.Model) -> keras.Model:
    """The same layers for images in float32, where those of `model` are whole numbers.

    Resized images rounded to whole numbers would not be the same everywhere: at .5, the last digit of a sum decides.
    """
    import keras

    from pipeline.models.graph import again

    images = model.inputs[0]
    if "int" not in images.dtype:
        return model
    graph, _ = again(model, keras.Input(images.shape[1:], dtype=images.dtype))
    floats = keras.Input(images.shape[1:], dtype="float32")
    return keras.models.clone_model(graph, input_tensors=floats, clone_function=lambda operation: operation)
