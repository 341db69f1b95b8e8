"""One study: statistics, a report, and the way to the dashboard: `python -m pipeline.compare study=heads`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from omegaconf import DictConfig

from pipeline.cli.command import command
from pipeline.cli.loading import loading
from pipeline.common.errors import ConfigError, UserError, suggestion
from pipeline.config import CompareConfig, absolute, to_typed

if TYPE_CHECKING:
    import pandas as pd


@command("compare")
def main(composed: DictConfig) -> None:
    """Composes, finds the runs, and shows them."""
    config = to_typed(composed, CompareConfig)
    if not config.snapshots:
        config.tracking.require_results(config.output_path)  # Before what takes seconds to import.
    with loading():
        from pipeline.study.conclude import conclude, conclude_snapshots, conclude_studies
        from pipeline.tracking.server.talk import talking_to
        from pipeline.tracking.store import open_store

    if config.snapshots:
        conclude_snapshots(list(map(absolute, config.snapshots)), config.statistics, config.asks, config.output_path)
        return
    open_store(config.tracking, config.output_path, create=False)
    with talking_to(config.tracking.server):
        ended = [_finished_runs(config, study) for study in config.studies]
    if len(ended) == 1:
        conclude(ended[0], config.statistics, config.asks, config.tracking, config.output_path)
        return
    conclude_studies(ended, config.studies, config.statistics, config.asks, config.output_path)


def _finished_runs(config: CompareConfig, study: str) -> pd.DataFrame:
    """The finished runs of a sweep, or of the newest of a study in each experiment."""
    from pipeline.study.conclude import finished
    from pipeline.tracking.queries import newest_runs, runs_of_sweep, studies

    runs = newest_runs(study) if config.sweep is None else runs_of_sweep(config.sweep)
    if runs.empty:
        known = studies()
        raise ConfigError(
            "study" if config.sweep is None else "sweep",
            study if config.sweep is None else config.sweep,
            "no run was recorded under this name",
            f"Recorded studies: {', '.join(known) or 'none'}. {suggestion(study, known)}".strip(),
        )
    found = finished(runs)
    if found.empty:
        raise UserError(f"study={study}: none of its {len(runs)} runs has finished yet.")
    return found


if __name__ == "__main__":
    main()
