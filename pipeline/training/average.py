"""The moving average of a model's weights that its optimizer keeps: Keras's `use_ema`.

Keras's own callback, SwapEMAWeights, exchanges the two by adding and subtracting, which rounds the weights each time.
Batch norm's moving statistics are averages already and stay those of the last steps.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import keras


@contextmanager
def averaged(model: keras.Model) -> Iterator[None]:
    """Within the block, a compiled model has the average of its weights, if its optimizer keeps any."""
    optimizer = model.optimizer
    # With mixed_float16, one optimizer is within another.
    if not getattr(optimizer, "inner_optimizer", optimizer).use_ema:
        yield
        return
    variables = model.trainable_variables
    own = [variable.numpy() for variable in variables]
    optimizer.finalize_variable_values(variables)
    for variable in variables:
        if variable.constraint is not None:  # The average takes a step in before it is brought back to its range.
            variable.assign(variable.constraint(variable))
    try:
        yield
    finally:
        for variable, value in zip(variables, own, strict=True):
            variable.assign(value)


def validate_average() -> Any:
    """A Keras callback that has the average validated."""

    class ValidateAverage(keras.callbacks.Callback):
        def on_test_begin(self, logs: dict[str, float] | None = None) -> None:
            self.block = ExitStack()
            self.block.enter_context(averaged(self.model))

        def on_test_end(self, logs: dict[str, float] | None = None) -> None:
            self.block.close()

    return ValidateAverage()
