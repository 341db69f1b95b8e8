"""What a careful person writes by hand for heads on a frozen backbone, to compare `frozen_study.py` with.

    python tests/benchmarks/careful_frozen.py MODEL.keras TRAIN_SPLIT EPOCHS SEEDS SIZES HEADS

The backbone predicts once: training and test images, and test images resized to each size and laid on a canvas of it.
Then each head is fitted on these arrays with Keras's defaults, and evaluated at each size that it takes. No record but
one line of JSON.
"""

from __future__ import annotations

import json
import math
import sys

import keras
import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

CLASSES = 10
BATCH = 128


def head(name: str, shape: tuple[int | None, int | None, int], native: tuple[int, int]) -> keras.Model:
    """A head of one of six kinds for maps of a shape; a window is that of the training size."""
    inputs = keras.Input(shape)
    if name == "flatten_dense":
        x = keras.layers.Flatten()(inputs)
    elif name == "average_pool":
        x = keras.layers.Flatten()(keras.layers.AveragePooling2D(native)(inputs))
    elif name == "global_average_pool":
        x = keras.layers.GlobalAveragePooling2D()(inputs)
    elif name == "global_max_pool":
        x = keras.layers.GlobalMaxPooling2D()(inputs)
    elif name == "average_max_pool":
        pools = (keras.layers.GlobalAveragePooling2D(), keras.layers.GlobalMaxPooling2D())
        x = keras.layers.Average()([pool(inputs) for pool in pools])
    else:
        maps = keras.layers.Conv2D(CLASSES, 1)(inputs)
        return keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(maps))
    return keras.Model(inputs, keras.layers.Dense(CLASSES)(x))


def on_canvas(images: np.ndarray, size: int) -> np.ndarray:
    """Images at their scale on a black canvas, at a random place; or their centre."""
    side = images.shape[1]
    if size <= side:
        start = (side - size) // 2
        return images[:, start : start + size, start : start + size]
    canvas = np.zeros((len(images), size, size, images.shape[-1]), np.uint8)
    places = np.random.default_rng(0).integers(0, size - side, (len(images), 2), endpoint=True)
    for image, (row, column), place in zip(images, places, canvas, strict=True):
        place[row : row + side, column : column + side] = image
    return canvas


def main(path: str, train_split: str, epochs: int, seeds: int, sizes: list[int], names: list[str]) -> None:
    """Predicts once, fits each head with each seed, prints."""
    splits = tfds.load("fashion_mnist", split=[train_split, "test"], batch_size=-1, as_supervised=True)
    (images, labels), (test_images, test_labels) = tfds.as_numpy(splits)
    model = keras.models.load_model(path)
    extractor = model.get_layer("backbone")
    maps, test_maps = (extractor.predict(pixels, BATCH, verbose=0) for pixels in (images, test_images))
    others = {}
    for size in sizes:
        resized = tf.image.resize(test_images, (size, size), antialias=True)
        resized = tf.cast(tf.clip_by_value(tf.round(resized), 0, 255), tf.uint8).numpy()
        for mode, made in (("resize", resized), ("canvas", on_canvas(test_images, size))):
            others[size, mode] = extractor.predict(made, BATCH, verbose=0)

    native = maps.shape[1:3]
    found = {}
    for name in names:
        for seed in range(seeds):
            keras.utils.set_random_seed(seed)
            shuffled = np.random.default_rng(seed).permutation(len(labels))
            held_out = round(len(labels) * 0.1)
            train, validation = shuffled[held_out:], shuffled[:held_out]
            steps = math.ceil(len(train) / BATCH) * epochs
            trained = head(name, maps.shape[1:], native)
            trained.compile(
                optimizer=keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(3e-3, decay_steps=steps)),
                loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
                metrics=["accuracy"],
            )
            trained.fit(
                *(maps[train], labels[train], BATCH, epochs),
                validation_data=(maps[validation], labels[validation]),
                verbose=0,
            )
            accuracies = {"test": trained.evaluate(test_maps, test_labels, BATCH, verbose=0)[1]}
            for (size, mode), of_size in others.items():
                try:
                    other = head(name, of_size.shape[1:], native)
                    other.set_weights(trained.get_weights())
                except ValueError:
                    continue  # It is refused.
                predicted = other.predict(of_size, BATCH, verbose=0).argmax(axis=1)
                accuracies[f"{mode} {size}"] = float(np.mean(predicted == test_labels))
            found[f"{name} {seed}"] = accuracies
    print(json.dumps(found))


if __name__ == "__main__":
    _, path, train_split, epochs, seeds, sizes, names = sys.argv
    main(path, train_split, int(epochs), int(seeds), [int(size) for size in sizes.split(",")], names.split(","))
