"""One study, concluded: its report in the terminal, in files and in MLflow, and the way to the dashboard."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from pipeline.cli.terminal import console
from pipeline.common.errors import require
from pipeline.common.names import File
from pipeline.common.settings import is_plain_name
from pipeline.comparison.report.files import write_report
from pipeline.comparison.report.markdown import markdown_page
from pipeline.comparison.report.report import make_report
from pipeline.comparison.report.terminal import print_report
from pipeline.comparison.settings import Statistics
from pipeline.comparison.snapshot import read_snapshot
from pipeline.other_sizes.ways import WAYS
from pipeline.study.links import how_to_look
from pipeline.tracking.publish import publish_views, record_report
from pipeline.tracking.queries import with_answers
from pipeline.tracking.settings import Tracking
from pipeline.tracking.store import server_address
from pipeline.tracking.views import run_link


def conclude(runs: pd.DataFrame, statistics: Statistics, tracking: Tracking, output_path: Path) -> None:
    """Compares, prints the answer with its tables, writes and records the report, prepares the dashboard's views.

    Args:
        runs: Finished runs of one sweep, or of the newest of a study in each experiment, see `queries.newest_runs`.
        statistics: How sure a verdict has to be.
        tracking: Where the runs are recorded.
        output_path: The report goes to `studies/SWEEP/` in it.

    Raises:
        ConfigError: The sweep's name would lead elsewhere.
    """
    address = server_address(tracking)
    experiments = dict(zip(runs["run_id"], runs["experiment_id"], strict=True))
    sweep = runs["sweep"].iloc[0]
    # On a shared server, anybody can write tags.
    require(is_plain_name(sweep), "sweep", sweep, "must be a name without slashes and quotes", "Use another sweep.")
    directory = output_path / "studies" / sweep
    compared = with_answers(runs)
    report = make_report(compared, statistics, WAYS)
    print_report(report, console())
    write_report(report, compared, directory, lambda run_id: run_link(address, experiments[run_id], run_id))
    _tell_where(directory)
    for experiment_id, experiment_runs in runs.groupby("experiment_id", sort=False):
        record_report(str(experiment_id), experiment_runs, markdown_page(report), directory)
    console().print(how_to_look(publish_views(runs), tracking, output_path), soft_wrap=True)


def conclude_snapshot(snapshot: Path, statistics: Statistics, output_path: Path) -> None:
    """The same from a file that an earlier report has written, without a store.

    Raises:
        ConfigError: The file is none of these.
    """
    runs = read_snapshot(snapshot)
    directory = output_path / "studies" / snapshot.stem
    report = make_report(runs, statistics, WAYS)
    print_report(report, console())
    write_report(report, runs, directory, link=None)
    _tell_where(directory)


def finished(runs: pd.DataFrame) -> pd.DataFrame:
    """Those of some runs that have ended well."""
    return runs[runs["status"] == "FINISHED"] if len(runs) else runs


def _tell_where(directory: Path) -> None:
    console().print(f"Report: {directory / File.REPORT_PAGE}", soft_wrap=True)
