"""One study: statistics, a report, and the way to the dashboard: `python -m pipeline.compare study=heads`."""

from __future__ import annotations

from omegaconf import DictConfig

from pipeline.cli.command import command
from pipeline.common.errors import ConfigError, UserError, suggestion
from pipeline.config import CompareConfig, absolute, to_typed


@command("compare")
def main(composed: DictConfig) -> None:
    """Composes, finds the runs, and shows them."""
    config = to_typed(composed, CompareConfig)
    if not config.snapshots:
        config.tracking.require_results(config.output_path)  # Before what takes seconds to import.
    from pipeline.study.conclude import conclude, conclude_snapshots, conclude_studies, finished
    from pipeline.tracking.queries import newest_runs, runs_of_sweep, studies
    from pipeline.tracking.store import open_store

    if config.snapshots:
        conclude_snapshots(list(map(absolute, config.snapshots)), config.statistics, config.asks, config.output_path)
        return
    open_store(config.tracking, config.output_path, create=False)
    ended = []
    for study in config.studies:
        runs = newest_runs(study) if config.sweep is None else runs_of_sweep(config.sweep)
        if runs.empty:
            known = studies()
            raise ConfigError(
                "study" if config.sweep is None else "sweep",
                study if config.sweep is None else config.sweep,
                "no run was recorded under this name",
                f"Recorded studies: {', '.join(known) or 'none'}. {suggestion(study, known)}".strip(),
            )
        ended.append(finished(runs))
        if ended[-1].empty:
            raise UserError(f"study={study}: none of its {len(runs)} runs has finished yet.")
    if len(ended) == 1:
        conclude(ended[0], config.statistics, config.asks, config.tracking, config.output_path)
        return
    conclude_studies(ended, config.studies, config.statistics, config.asks, config.output_path)


if __name__ == "__main__":
    main()
