"""A study's runs and answers in one small file, so that its report can be made again without store and training."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pyarrow.parquet

from pipeline.common.errors import ConfigError, first_line
from pipeline.common.files import atomic_write
from pipeline.common.names import ANSWERS, CALIBRATION, LABELS, RECALL, Tag
from pipeline.comparison.schema import MAX_RUNS, faults, is_numeric, rule_of

KEPT = ("params.", "metrics.", ANSWERS, RECALL, CALIBRATION, "tags.pairing.", "tags.size.")
"""Beginnings of the columns that are kept, beside `NAMED`."""
NAMED = (
    *("run_id", "experiment_id", "status", "start_time"),
    *(tag.column for tag in (Tag.HEAD, Tag.BACKBONE, Tag.DATASET, Tag.STUDY, Tag.FUNCTION, Tag.PRUNED, Tag.COLOR)),
    *(Tag.MADE_WITH.column, Tag.COMMAND.column, LABELS),
)
MAX_BYTES = 2**30
"""Of a snapshot that is read."""
PRIVATE = ("params.tracking.", "params.output_dir", "params.dataset.data_dir", "params.dataset.path")
"""Of these, what says where somebody's files are."""
FILES = ("params.backbone.path", "params.backbone.weights")
"""Which arms may differ in: the names of files are kept, without the folders that they lie in."""


def write_snapshot(runs: pd.DataFrame, path: Path) -> None:
    """Writes runs with their answers (see `comparison.analysis`)."""
    columns = [
        column
        for column in runs
        if (column in NAMED or str(column).startswith(KEPT)) and not str(column).startswith(PRIVATE)
    ]
    files = {column: runs[column].map(_without_folders) for column in FILES if column in columns}
    with atomic_write(path) as beside:
        runs[columns].assign(**files).to_parquet(beside, index=False, compression="zstd")


def _without_folders(value: object) -> object:
    return value.rpartition("/")[2] if isinstance(value, str) and ":/" not in value else value


def read_snapshot(path: Path) -> pd.DataFrame:
    """Reads what `write_snapshot` has written.

    Raises:
        ConfigError: There is no such file, or it is not one of these.
    """
    remedy = "Name a runs.parquet that python -m pipeline.compare has written."
    try:
        _check_extent(pyarrow.parquet.read_metadata(path))
        runs = pd.read_parquet(path).reset_index(drop=True)
        known = [column for column in runs if rule_of(column) is not None]
        if len(set(known)) < len(known):
            raise ValueError("it has two columns of one name")
    except Exception as error:  # A file of unknown origin can fail in any way.
        raise ConfigError("snapshot", path, f"cannot be read: {first_line(error)}", remedy) from error
    if fault := next(faults(runs[known]), None):
        raise ConfigError("snapshot", path, fault, remedy)
    return runs[known].astype({column: float for column in known if is_numeric(column)})


def _check_extent(about: pyarrow.parquet.FileMetaData) -> None:
    """Raises `ValueError` for a table that would fill the memory: a few bytes of a file can stand for any number."""
    groups = (about.row_group(index) for index in range(about.num_row_groups))
    size = sum(group.column(index).total_uncompressed_size for group in groups for index in range(group.num_columns))
    if about.num_rows > MAX_RUNS or size > MAX_BYTES:
        raise ValueError(f"it has {about.num_rows:,} rows and {size / 1e6:,.0f} MB, and no study has so much")
