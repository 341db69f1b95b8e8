"""Where to look: what to type, and which address opens which view."""

from __future__ import annotations

from pathlib import Path

from pipeline.cli.arguments import to_type
from pipeline.cli.terminal import console
from pipeline.config import PROJECT_ROOT
from pipeline.tracking.publish import View, publish_views
from pipeline.tracking.queries import one_run
from pipeline.tracking.settings import Tracking
from pipeline.tracking.store import server_address
from pipeline.tracking.views import run_link


def sync_command(tracking: Tracking, output_path: Path) -> str:
    """What to type to bring runs to a tracking server that did not answer."""
    return to_type("pipeline.sync", tracking__uri=tracking.uri, output_dir=output_path)


def show_run(run_id: str, tracking: Tracking, output_path: Path) -> None:
    """Prepares the dashboard's view of all runs of an experiment, and prints the links of it and of one run's page."""
    run = one_run(run_id)
    page = run_link(server_address(tracking), run["experiment_id"].iloc[0], run_id)
    console().print(how_to_look(publish_views(run), tracking, output_path), soft_wrap=True)
    console().print(f"This run: {page}", soft_wrap=True)


def how_to_look(prepared: list[View], tracking: Tracking, output_path: Path) -> str:
    """What to type, and which address then opens each view."""
    address = server_address(tracking)
    links = [f"{view.experiment}, {view.name}\n  {view.link(address)}" for view in prepared]
    if tracking.uri is not None and not tracking.is_database:
        return "\n".join(["Compare in the dashboard:", *links])
    return "\n".join([f"Compare in the dashboard: {dashboard_command(tracking, output_path)}, then open", *links])


def dashboard_command(tracking: Tracking, output_path: Path) -> str:
    """What to type to see what is recorded on this machine or in a database."""
    # The Makefile serves the clone's own outputs/ only.
    if tracking.uri is None and output_path == PROJECT_ROOT / "outputs" and (PROJECT_ROOT / "Makefile").is_file():
        return "make dashboard"
    return to_type("pipeline.dashboard", tracking__uri=tracking.uri, output_dir=output_path)
