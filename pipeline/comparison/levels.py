"""The levels of a setting: what a study sweeps to see whether the leads of its arms depend on it."""

from __future__ import annotations

import re

import pandas as pd

from pipeline.common.names import Param
from pipeline.comparison.params import param_value


def varies(runs: pd.DataFrame, over: str) -> bool:
    """Whether the runs have several values of a param."""
    column = f"params.{over}"
    return column in runs and runs[column].nunique() > 1


def by_level(runs: pd.DataFrame, over: str) -> list[tuple[str, pd.DataFrame]]:
    """Runs by the recorded value of a param, in the order of its numbers.

    Where each level has arms of its own, as `sees_7px` and `sees_13px`, their heads are what can be compared over all
    levels: these runs have lost their arms.
    """
    column = f"params.{over}"
    levels = [(str(level), of_level) for level, of_level in runs.groupby(column, sort=False)]
    arm = Param.ARM.column
    if arm in runs and not set.intersection(*(set(of_level[arm]) for _, of_level in levels)):
        levels = [(level, of_level.assign(**{arm: "None"})) for level, of_level in levels]  # As MLflow writes a null.
    return sorted(levels, key=lambda level: (level_number(level[0]) or 0.0, level[0]))


def level_number(level: str) -> float | None:
    """The number in a recorded setting; of [height, width] and of 7×9 the first; None if there is none."""
    if size := re.fullmatch(r"(\d+)×\d+", level):
        return float(size[1])
    value = param_value(level)
    if isinstance(value, list) and value:
        value = value[0]
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def level_text(level: str) -> str:
    """A recorded value of a setting; `14×14` for `[14, 14]`."""
    return level.strip("[]").replace(", ", "×") if level.startswith("[") else level
