"""Classifiers of images of three channels into four classes, built by Keras alone, as a user of Keras would."""

from __future__ import annotations

import keras
from keras import layers

SIDE, CLASSES = 16, 4


def _convolutions(x: keras.KerasTensor) -> keras.KerasTensor:
    x = layers.Rescaling(1 / 255)(x)
    x = layers.Conv2D(8, 3, padding="same", activation="relu")(x)
    return layers.Conv2D(8, 3, strides=2, padding="same", activation="relu")(x)


def global_average() -> keras.Model:
    """Takes images of any size."""
    images = keras.Input((None, None, 3))
    x = layers.GlobalAveragePooling2D()(_convolutions(images))
    return keras.Model(images, layers.Dense(CLASSES, activation="softmax")(x))


def average_window() -> keras.Model:
    """Average pooling over the whole map of 8×8 cells, Flatten: its classes are channels, so that it is of no size."""
    images = keras.Input((None, None, 3))
    x = layers.Conv2D(CLASSES, 1)(_convolutions(images))
    return keras.Model(images, layers.Flatten()(layers.AveragePooling2D(8)(x)))


def flatten_dense() -> keras.Model:
    """Takes images of one size."""
    images = keras.Input((SIDE, SIDE, 3))
    x = layers.Flatten()(_convolutions(images))
    return keras.Model(images, layers.Dense(CLASSES, activation="softmax")(x))


def mobile_net() -> keras.Model:
    """MobileNetV2 with its top, which Keras builds for one size alone; it gets the pixels as they are."""
    model = keras.applications.MobileNetV2((32, 32, 3), alpha=0.35, weights=None, classes=CLASSES)
    normalizations = [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]
    for layer in normalizations:
        layer.momentum = 0.0
    # As after a training, means and variances are those of images: with the first ones, nothing arrives at its end.
    model(keras.random.uniform((8, 32, 32, 3), 0, 255, seed=0), training=True)
    return model


def u_net() -> keras.Model:
    """Down twice, up once, with a skip; then the mean of the map. It takes only sides whose halves fit together."""
    images = keras.Input((None, None, 3))
    x = layers.Rescaling(1 / 255)(images)
    skip = layers.Conv2D(8, 3, padding="same", activation="relu")(x)
    deep = layers.Conv2D(8, 3, padding="same", activation="relu")(layers.MaxPooling2D()(skip))
    x = layers.Concatenate()([skip, layers.UpSampling2D()(deep)])
    x = layers.Conv2D(8, 3, padding="same", activation="relu")(x)
    return keras.Model(images, layers.Dense(CLASSES)(layers.GlobalAveragePooling2D()(x)))


MODELS = {
    "global_average": (global_average, SIDE),
    "average_window": (average_window, SIDE),
    "flatten_dense": (flatten_dense, SIDE),
    "mobile_net": (mobile_net, 32),
    "u_net": (u_net, SIDE),
}
"""What builds each, and the height and width in pixels of its training images."""
