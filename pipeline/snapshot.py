"""A study's runs and answers in one small file, so that its report can be made again without store and training."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pipeline import storage
from pipeline.errors import ConfigError

if TYPE_CHECKING:
    import pandas as pd

KEPT = ("params.", "metrics.", "answers.", "tags.pairing.", "tags.size.")
"""Beginnings of the columns that are kept, beside `NAMED`."""
NAMED = (
    *("run_id", "experiment_id", "status", "start_time"),
    *("tags.head", "tags.backbone", "tags.dataset", "tags.study", "tags.sweep", "tags.mlflow.runColor"),
)
PRIVATE = ("params.tracking.", "params.output_dir", "params.dataset.data_dir", "params.dataset.path")
"""Of these, what says where somebody's files are."""


def write(runs: pd.DataFrame, path: Path) -> None:
    """Writes runs with their answers (see `pipeline.analysis`)."""
    columns = [
        column
        for column in runs
        if (column in NAMED or str(column).startswith(KEPT)) and not str(column).startswith(PRIVATE)
    ]
    with storage.whole(path) as beside:
        runs[columns].to_parquet(beside, index=False, compression="zstd")


def read(path: Path) -> pd.DataFrame:
    """Reads what `write` has written.

    Raises:
        ConfigError: There is no such file, or it is not one of these.
    """
    import pandas as pd

    try:
        runs = pd.read_parquet(path)
    except (OSError, ValueError) as error:
        raise ConfigError(
            "snapshot",
            path,
            f"cannot be read: {str(error).splitlines()[0]}",
            "Name a runs.parquet that python -m pipeline.compare has written.",
        ) from error
    if missing := {"tags.head", "params.seed", "answers.test"} - set(runs):
        raise ConfigError(
            "snapshot",
            path,
            f"has no {', '.join(sorted(missing))}",
            "Name a runs.parquet that python -m pipeline.compare has written.",
        )
    return runs
