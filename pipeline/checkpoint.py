"""The state of a training after an epoch, in one file that is there whole or not at all.

Keras's BackupAndRestore writes weights and epoch number one after the other, so that a process killed in between goes
on from weights of another epoch; and it leaves out the random state of dropout and the best weights so far.
"""

from __future__ import annotations

import json
import logging
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipeline import storage

if TYPE_CHECKING:
    import keras

log = logging.getLogger("pipeline")


@dataclass
class State:
    """How far a training has come.

    Attributes:
        history: Metrics of each epoch so far, as Keras names them.
        best_epoch: Epoch, from 0, with the best validation accuracy; the last one without validation images.
        best_weights: Of that epoch, as `model.get_weights` gives them.
    """

    history: list[dict[str, float]]
    best_epoch: int
    best_weights: list[np.ndarray]


def capture(model: keras.Model, state: State) -> dict[str, np.ndarray]:
    """The state with all variables of a compiled model and its optimizer, as they are now."""
    arrays = {f"model.{index}": variable.numpy() for index, variable in enumerate(model.variables)}
    arrays |= {f"optimizer.{index}": variable.numpy() for index, variable in enumerate(model.optimizer.variables)}
    arrays |= {f"best.{index}": weights for index, weights in enumerate(state.best_weights)}
    facts = json.dumps({"history": state.history, "best_epoch": state.best_epoch})
    return {"facts": np.array(facts), **arrays}


def save(path: Path, captured: dict[str, np.ndarray]) -> None:
    """Writes what was captured; raises `OSError` if it cannot."""
    with storage.whole(path) as beside:
        np.savez(beside, **captured)  # type: ignore[arg-type]


def load(path: Path, model: keras.Model) -> State | None:
    """Brings a compiled model and its optimizer to a saved state.

    Returns:
        The state; None if there is none, or none that can be read, of which a warning tells.
    """
    if not path.is_file():
        return None
    model.optimizer.build(model.trainable_variables)
    variables = {"model": model.variables, "optimizer": model.optimizer.variables}
    try:
        with np.load(path, allow_pickle=False) as arrays:
            facts = json.loads(str(arrays["facts"]))
            values = {name: [arrays[f"{name}.{index}"] for index in range(len(of))] for name, of in variables.items()}
            best = [arrays[f"best.{index}"] for index in range(len(model.weights))]
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
        log.warning("%s cannot be read (%s): the training begins anew", path, error)
        return None
    for name, of in variables.items():
        if [value.shape for value in values[name]] != [tuple(variable.shape) for variable in of]:
            log.warning("%s cannot be read (it holds another %s): the training begins anew", path, name)
            return None
    for name, of in variables.items():
        for variable, value in zip(of, values[name], strict=True):
            variable.assign(value)
    return State(best_weights=best, **facts)
