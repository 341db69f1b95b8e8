"""Brings runs to the tracking server."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from pipeline.cli.session import SESSION
from pipeline.study.links import sync_command
from pipeline.tracking.queries import entities
from pipeline.tracking.server.replicate import replicate_all
from pipeline.tracking.settings import Tracking
from pipeline.tracking.store import open_store


def gathered(runs: pd.DataFrame, tracking: Tracking, output_path: Path) -> tuple[Tracking, dict[str, str]]:
    """Brings runs to the tracking server, if there is one, and points MLflow at where all of them can be read.

    Args:
        runs: Of the store in `output_path`, that MLflow points at.
        tracking: Where the runs are to be recorded.
        output_path: The `output_dir`.

    Returns:
        Where all can be read: the server, or the store in `output_path` if the server has not taken all of them; then
        the command ends in failure. And the ids of the copies by those of the runs.
    """
    if tracking.server is None:
        return tracking, {}
    copies = replicate_all(tracking.server, entities(runs), output_path)
    if len(copies) < len(runs):
        SESSION.fail_at_end(
            f"tracking.uri={tracking.uri}: the MLflow server has {len(copies)} of these {len(runs)} runs; all of them "
            "are in output_dir. Once the server answers:\n  " + sync_command(tracking, output_path)
        )
        return tracking.recorded, copies
    open_store(tracking, output_path)
    return tracking, copies
