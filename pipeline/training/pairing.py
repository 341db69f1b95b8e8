"""What two runs must share so that their difference is the head's: split, batches, and the backbone's first weights."""

from __future__ import annotations

from dataclasses import dataclass

import keras

from pipeline.common.digest import digest_of
from pipeline.data.batches import Data


@dataclass(frozen=True)
class Pairing:
    """Digests, each the first 32 hexadecimal digits of a SHA-256, of what a run started from.

    Attributes:
        split: The prepared files, and which of their images are trained on, held out and tested on.
        batches: The first training batch, pixel by pixel, in its order, before it is resized or augmented: in that,
            arms may differ.
        backbone: The backbone's initial weights.
    """

    split: str
    batches: str
    backbone: str


def pairing_of(data: Data, untrained: keras.Model, batch_size: int) -> Pairing:
    """The facts of a run about to start, taken from the data and weights themselves and not from its settings.

    Args:
        data: The run's data.
        untrained: What `build_model` gives.
        batch_size: Of the training.
    """
    images, labels = next(iter(data.train(batch_size, epochs=1).as_numpy_iterator()))
    splits = (data.train_split.digest, data.test_split.digest)
    return Pairing(
        split=digest_of(*splits, data.train_indices, data.validation_indices),
        batches=digest_of(images, labels),
        backbone=digest_of(*untrained.get_layer("backbone").get_weights()),
    )
