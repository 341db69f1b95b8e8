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
    # The sweeps that they belong to may have runs that the server has, and knows as those of earlier sweeps alone.
    sweeps = {sweep for run in lacking for sweep in study.sweeps(run)}
    beside = [run for run in recorded if delivery.is_delivered(uri, run) and sweeps & study.sweeps(run).keys()]
    copies = delivery.deliver_all(uri, [*lacking, *beside], config.output_path)
    going_on = sum(run.info.status == "RUNNING" for run in recorded)
    copied = sum(run.info.run_id in copies for run in lacking)
    log.info("%d of %d runs copied to %s; it had %d", copied, len(lacking), uri, len(recorded) - len(lacking))
    if going_on:
        log.info("%d have not ended; they are copied when they have", going_on)
    if len(copies) < len(lacking) + len(beside):
        raise UserError(f"tracking.uri={uri}: the server did not take all runs. The same command brings it the rest.")
    if copies:
        _show(lacking, copies, config)


def _show(runs: list[Run], copies: dict[str, str], config: Sync) -> None:
    """Compares the copies where they are now; sweep by sweep, in the order of the runs."""
    store.open_store(config.tracking, config.output_path)
    calls = [study.sweeps(run) for run in runs if run.info.status == "FINISHED"]
    newest = dict.fromkeys(max(since, key=since.__getitem__) for since in calls if since)
    for sweep in newest:
        of_sweep = study.runs_of_sweep(sweep)
        compare(of_sweep[of_sweep["status"] == "FINISHED"], config.statistics, config.tracking, config.output_path)
    if not newest:
        show_run(copies[runs[-1].info.run_id], config.tracking, config.output_path)


@cli.command("sync")
def main(composed: DictConfig) -> None:
    """Composes, checks and copies."""
    sync(to_typed(composed, Sync))


if __name__ == "__main__":
    main()
