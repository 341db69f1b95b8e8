"""Brings recorded runs to a tracking server: `python -m pipeline.sync tracking.uri=http://127.0.0.1:5000`."""

from __future__ import annotations

from omegaconf import DictConfig

from pipeline.cli.command import command
from pipeline.cli.loading import loading
from pipeline.config import SyncConfig, to_typed


@command("sync")
def main(composed: DictConfig) -> None:
    """Composes, checks and copies."""
    config = to_typed(composed, SyncConfig)
    with loading():
        from pipeline.study.sync import sync

    sync(config.study, config.statistics, config.tracking, config.output_path)


if __name__ == "__main__":
    main()
