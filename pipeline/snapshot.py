"""A study's runs and answers in one small file, so that its report can be made again without store and training."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pipeline import storage
from pipeline.answers import unpack
from pipeline.errors import ConfigError, first_line, require

if TYPE_CHECKING:
    import pandas as pd

KEPT = ("params.", "metrics.", "answers.", "tags.pairing.", "tags.size.")
"""Beginnings of the columns that are kept, beside `NAMED`."""
NAMED = (
    *("run_id", "experiment_id", "status", "start_time"),
    *("tags.head", "tags.backbone", "tags.dataset", "tags.study", "tags.pruned", "tags.mlflow.runColor"),
)
REQUIRED = {
    *("start_time", "params.seed", "params.image_size", "answers.test", "metrics.test/accuracy"),
    *("tags.head", "tags.backbone", "tags.dataset", "tags.mlflow.runColor"),
    *("tags.pairing.split", "tags.pairing.batches", "tags.pairing.backbone"),
    *("metrics.params/total", "metrics.params/head"),
    *("metrics.cost/flops", "metrics.cost/memory_bytes", "metrics.cost/ms_per_image"),
}
"""Columns that every report needs."""
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

    remedy = "Name a runs.parquet that python -m pipeline.compare has written."
    try:
        runs = pd.read_parquet(path)
    except Exception as error:  # A file of unknown origin can fail in any way.
        raise ConfigError("snapshot", path, f"cannot be read: {first_line(error)}", remedy) from error
    missing = sorted(REQUIRED - set(runs))
    require(not missing, "snapshot", path, f"has no {', '.join(missing)}", remedy)
    require(len(runs) > 0, "snapshot", path, "holds no run", remedy)
    try:
        runs["params.seed"].astype(int)
        for column in runs:
            if str(column).startswith("answers."):
                runs[column].dropna().map(unpack)
    except (TypeError, ValueError) as error:
        raise ConfigError("snapshot", path, f"is damaged: {first_line(error)}", remedy) from error
    return runs
