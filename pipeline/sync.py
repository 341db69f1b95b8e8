"""Brings recorded runs to a tracking server: `python -m pipeline.sync tracking.uri=http://127.0.0.1:5000`."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from pipeline import cli
from pipeline.compare import compare, show_run
from pipeline.config import Sync, to_typed
from pipeline.errors import UserError
from pipeline.tracking import delivery, store, study

if TYPE_CHECKING:
    from mlflow.entities import Run

log = logging.getLogger("pipeline")


def sync(config: Sync) -> None:
    """Copies the runs that the server lacks, and compares there the studies that they belong to.

    Raises:
        UserError: The server does not answer, or not to the end.
    """
    assert config.tracking.uri is not None
    uri = config.tracking.uri
    store.open_store(config.tracking, config.output_path)
    store.open_store(config.tracking.recorded, config.output_path, create=False)
    recorded = study.entities(study.trained(config.study))
    lacking = [run for run in recorded if run.info.status != "RUNNING" and not delivery.is_delivered(uri, run)]
    copies = delivery.deliver_all(uri, lacking, config.output_path)
    going_on = sum(run.info.status == "RUNNING" for run in recorded)
    log.info("%d of %d runs copied to %s; it had %d", len(copies), len(lacking), uri, len(recorded) - len(lacking))
    if going_on:
        log.info("%d have not ended; they are copied when they have", going_on)
    if len(copies) < len(lacking):
        raise UserError(f"tracking.uri={uri}: the server did not take all runs. The same command brings it the rest.")
    if copies:
        _show(lacking, copies, config)


def _show(runs: list[Run], copies: dict[str, str], config: Sync) -> None:
    """Compares the copies where they are now; sweep by sweep, in the order of the runs."""
    store.open_store(config.tracking, config.output_path)
    sweeps = [run.data.tags.get("sweep") for run in runs if run.info.status == "FINISHED"]
    for sweep in dict.fromkeys(name for name in sweeps if name is not None):
        of_sweep = study.runs_of_sweep(sweep)
        compare(of_sweep[of_sweep["status"] == "FINISHED"], config.statistics, config.tracking, config.output_path)
    if not any(sweeps):
        show_run(copies[runs[-1].info.run_id], config.tracking, config.output_path)


@cli.command("sync")
def main(composed: DictConfig) -> None:
    """Composes, checks and copies."""
    sync(to_typed(composed, Sync))


if __name__ == "__main__":
    main()
