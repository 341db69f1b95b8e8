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
    if config.snapshot is None:
        config.tracking.require_results(config.output_path)  # Before what takes seconds to import.
    from pipeline.study.conclude import conclude, conclude_snapshot, finished
    from pipeline.tracking.queries import newest_runs, runs_of_sweep, studies
    from pipeline.tracking.store import open_store

    if config.snapshot is not None:
        conclude_snapshot(absolute(config.snapshot), config.statistics, config.output_path)
        return
    assert config.study is not None
    open_store(config.tracking, config.output_path, create=False)
    runs = newest_runs(config.study) if config.sweep is None else runs_of_sweep(config.sweep)
    if runs.empty:
        known = studies()
        raise ConfigError(
            "study" if config.sweep is None else "sweep",
            config.study if config.sweep is None else config.sweep,
            "no run was recorded under this name",
            f"Recorded studies: {', '.join(known) or 'none'}. {suggestion(config.study, known)}".strip(),
        )
    ended = finished(runs)
    if ended.empty:
        raise UserError(f"study={config.study}: none of its {len(runs)} runs has finished yet.")
    conclude(ended, config.statistics, config.tracking, config.output_path)


if __name__ == "__main__":
    main()
