"""Networks that tests are made of."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import keras

if TYPE_CHECKING:
    from keras import KerasTensor


def stacked(*stack: keras.Layer) -> Callable[[KerasTensor], KerasTensor]:
    """Layers one after the other, as a function of what goes into the first."""

    def features(x: KerasTensor) -> KerasTensor:
        for layer in stack:
            x = layer(x)
        return x

    return features
