"""What one writes by hand for the work of `python -m pipeline.train head=global_average_pool`, to compare speeds with.

    python tests/benchmarks/bare_keras.py DATASET EPOCHS BATCH_SIZE [TRAIN_SPLIT]

No configuration, no record, no size probe: TFDS into NumPy arrays, the same model and optimizer, `model.fit` on the
arrays with Keras's defaults. Prints one line of JSON.
"""

from __future__ import annotations

import json
import math
import sys
import time

import keras
import numpy as np
import tensorflow_datasets as tfds

import pipeline.data.digits.digits_dataset_builder  # noqa: F401  (importing it registers `digits`)


class EpochTimes(keras.callbacks.Callback):
    """Seconds of each epoch without its validation, from the same two moments as the program's own callback."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds: list[float] = []

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        self.began = time.perf_counter()

    def on_test_begin(self, logs: dict[str, float] | None = None) -> None:
        self.trained_until = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        self.seconds.append(self.trained_until - self.began)


def main(dataset: str, epochs: int, batch_size: int, train_split: str = "train") -> None:
    """Trains, evaluates on the test split, prints."""
    splits = tfds.load(dataset, split=[train_split, "test"], batch_size=-1, as_supervised=True)
    (images, labels), (test_images, test_labels) = tfds.as_numpy(splits)

    keras.utils.set_random_seed(0)
    shuffled = np.random.default_rng(0).permutation(len(labels))
    held_out = round(len(labels) * 0.1)
    train, validation = shuffled[held_out:], shuffled[:held_out]

    inputs = keras.Input(images.shape[1:], dtype="uint8")
    x = keras.layers.Rescaling(1 / 255)(inputs)
    for filters, stride in zip((32, 32, 64, 64), (1, 2, 1, 2), strict=True):
        x = keras.layers.Conv2D(filters, 3, stride, padding="same", use_bias=False)(x)
        x = keras.layers.BatchNormalization(momentum=0.9)(x)
        x = keras.layers.ReLU()(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    model = keras.Model(inputs, keras.layers.Dense(10)(x))

    steps = math.ceil(len(train) / batch_size) * epochs
    model.compile(
        optimizer=keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(3e-3, decay_steps=steps)),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    times = EpochTimes()
    model.fit(
        images[train],
        labels[train],
        batch_size=batch_size,
        epochs=epochs,
        validation_data=(images[validation], labels[validation]),
        callbacks=[times],
        verbose=0,
    )
    _, accuracy = model.evaluate(test_images, test_labels, batch_size=batch_size, verbose=0)
    # The first epoch also compiles.
    steady = times.seconds[1:] or times.seconds
    images_per_second = len(steady) * len(train) / sum(steady)
    print(json.dumps({"images_per_second": images_per_second, "test_accuracy": accuracy}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), *sys.argv[4:])
