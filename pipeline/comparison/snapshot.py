"""A study's runs and answers in one small file, so that its report can be made again without store and training."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from pipeline.common.condition import TEST
from pipeline.common.errors import ConfigError, first_line, require
from pipeline.common.files import atomic_write
from pipeline.common.names import ANSWERS, PAIRING_TAGS, RECALL, Metric, Param, Tag
from pipeline.comparison.answers import unpack

KEPT = ("params.", "metrics.", ANSWERS, RECALL, "tags.pairing.", "tags.size.")
"""Beginnings of the columns that are kept, beside `NAMED`."""
NAMED = (
    *("run_id", "experiment_id", "status", "start_time"),
    *(tag.column for tag in (Tag.HEAD, Tag.BACKBONE, Tag.DATASET, Tag.STUDY, Tag.FUNCTION, Tag.PRUNED, Tag.COLOR)),
)
REQUIRED = {
    *("start_time", Param.SEED.column, Param.IMAGE_SIZE.column, f"{ANSWERS}{TEST}"),
    *(tag.column for tag in (Tag.HEAD, Tag.BACKBONE, Tag.DATASET, Tag.COLOR, *PAIRING_TAGS)),
    *(metric.column for metric in (Metric.TEST_ACCURACY, Metric.PARAMETERS, Metric.HEAD_PARAMETERS)),
    *(metric.column for metric in (Metric.FLOPS, Metric.MEMORY_BYTES, Metric.MS_PER_IMAGE)),
}
"""Columns that every report needs."""
PRIVATE = ("params.tracking.", "params.output_dir", "params.dataset.data_dir", "params.dataset.path")
"""Of these, what says where somebody's files are."""


def write_snapshot(runs: pd.DataFrame, path: Path) -> None:
    """Writes runs with their answers (see `comparison.analysis`)."""
    columns = [
        column
        for column in runs
        if (column in NAMED or str(column).startswith(KEPT)) and not str(column).startswith(PRIVATE)
    ]
    with atomic_write(path) as beside:
        runs[columns].to_parquet(beside, index=False, compression="zstd")


def read_snapshot(path: Path) -> pd.DataFrame:
    """Reads what `write_snapshot` has written.

    Raises:
        ConfigError: There is no such file, or it is not one of these.
    """
    remedy = "Name a runs.parquet that python -m pipeline.compare has written."
    try:
        runs = pd.read_parquet(path)
    except Exception as error:  # A file of unknown origin can fail in any way.
        raise ConfigError("snapshot", path, f"cannot be read: {first_line(error)}", remedy) from error
    missing = sorted(REQUIRED - set(runs))
    require(not missing, "snapshot", path, f"has no {', '.join(missing)}", remedy)
    require(len(runs) > 0, "snapshot", path, "holds no run", remedy)
    try:
        runs[Param.SEED.column].astype(int)
        for column in runs:
            if str(column).startswith(ANSWERS):
                runs[column].dropna().map(unpack)
    except (TypeError, ValueError) as error:
        raise ConfigError("snapshot", path, f"is damaged: {first_line(error)}", remedy) from error
    return runs
