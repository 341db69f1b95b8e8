"""The state of a training after an epoch, in one file that is there whole or not at all.

Keras's BackupAndRestore writes weights and epoch number one after the other, so that a process killed in between goes
on from weights of another epoch; and it leaves out the random state of dropout and the best weights so far.
"""

from __future__ import annotations

import json
import logging
import math
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np

from pipeline.common.errors import class_and_first_line
from pipeline.common.files import atomic_write

log = logging.getLogger("pipeline")


@dataclass
class State:
    """How far a training has come.

    Attributes:
        history: Metrics of each epoch so far, as Keras names them.
        best_epoch: Epoch, from 0, with the best validation accuracy; the last one without validation images.
        best_weights: Of that epoch, as `model.get_weights` gives them.
        images_per_second: How fast its newest process trained; NaN before the first epoch.
    """

    history: list[dict[str, float]]
    best_epoch: int
    best_weights: list[np.ndarray]
    images_per_second: float = math.nan


def capture(model: keras.Model, state: State) -> dict[str, np.ndarray]:
    """The state with all variables of a compiled model and its optimizer, as they are now."""
    arrays = {f"model.{index}": variable.numpy() for index, variable in enumerate(model.variables)}
    arrays |= {f"optimizer.{index}": variable.numpy() for index, variable in enumerate(model.optimizer.variables)}
    arrays |= {f"best.{index}": weights for index, weights in enumerate(state.best_weights)}
    facts = {name: value for name, value in vars(state).items() if name != "best_weights"}
    return {"facts": np.array(json.dumps(facts)), **arrays}


def save(path: Path, captured: dict[str, np.ndarray]) -> None:
    """Writes what was captured; raises `OSError` if it cannot."""
    with atomic_write(path) as beside:
        np.savez(beside, **captured)  # type: ignore[arg-type]


def load(path: Path, model: keras.Model) -> State | None:
    """Brings a compiled model and its optimizer, which is built, to a saved state.

    Returns:
        The state; None if there is none, or none that can be read, of which a warning tells.
    """
    if not path.is_file():
        return None
    variables = {"model": model.variables, "optimizer": model.optimizer.variables, "best": model.weights}
    try:
        with np.load(path, allow_pickle=False) as arrays:
            facts = json.loads(str(arrays["facts"]))
            values = {name: [arrays[f"{name}.{index}"] for index in range(len(of))] for name, of in variables.items()}
        state = State(best_weights=values["best"], **facts)
        if not 0 <= state.best_epoch < len(state.history):
            raise ValueError(f"its best epoch, {state.best_epoch}, is none of the {len(state.history)} that it holds")
        for name, of in variables.items():
            if [value.shape for value in values[name]] != [tuple(variable.shape) for variable in of]:
                raise ValueError(f"it holds another {name}")
    except Exception as error:  # A file that is cut short, damaged or of another kind can fail in any way.
        log.warning("%s cannot be read (%s): the training begins anew", path, class_and_first_line(error))
        return None
    for name in ("model", "optimizer"):
        for variable, value in zip(variables[name], values[name], strict=True):
            variable.assign(value)
    return state
