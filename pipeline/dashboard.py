"""MLflow's dashboard on 127.0.0.1, with a front page: `python -m pipeline.dashboard`."""

from __future__ import annotations

from omegaconf import DictConfig

from pipeline.cli.command import command
from pipeline.config import DashboardConfig, to_typed


@command("dashboard")
def main(composed: DictConfig) -> None:
    """Composes, checks and serves."""
    config = to_typed(composed, DashboardConfig)
    config.tracking.require_results(config.output_path)  # Before what takes seconds to import.
    from pipeline.tracking.server.serve import serve

    serve(config.tracking, config.output_path, config.port, config.open_browser)


if __name__ == "__main__":
    main()
