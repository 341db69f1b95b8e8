"""One study, concluded: its report in the terminal, in files and in MLflow, and the way to the dashboard."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pandas as pd

from pipeline.cli.terminal import console
from pipeline.common.digest import digest_of
from pipeline.common.errors import UserError, require
from pipeline.common.names import File
from pipeline.common.settings import PLAIN_NAME, is_plain_name, is_short
from pipeline.comparison.report.files import write_report
from pipeline.comparison.report.gallery import FindImages
from pipeline.comparison.report.markdown import markdown_page
from pipeline.comparison.report.report import make_report
from pipeline.comparison.report.terminal import print_report
from pipeline.comparison.schema import faults
from pipeline.comparison.settings import Asks, Statistics
from pipeline.comparison.shared import together
from pipeline.comparison.snapshot import read_snapshot
from pipeline.data.kept_images import find_images
from pipeline.other_sizes.ways import ALL_WAYS
from pipeline.study.links import how_to_look
from pipeline.tracking.looks import seeds_added_after_a_look
from pipeline.tracking.publish import name_runs, publish_views, record_report
from pipeline.tracking.queries import with_answers
from pipeline.tracking.server.talk import talking_to
from pipeline.tracking.settings import Tracking
from pipeline.tracking.store import server_address
from pipeline.tracking.views import run_link


def conclude(runs: pd.DataFrame, statistics: Statistics, asks: Asks, tracking: Tracking, output_path: Path) -> None:
    """Compares, prints the answer with its tables, writes and records the report, prepares the dashboard's views.

    Args:
        runs: Finished runs of one sweep, or of the newest of a study in each experiment, see `queries.newest_runs`.
        statistics: How sure a verdict has to be.
        asks: What the question is about; where it does not say, what the runs have recorded of it.
        tracking: Where the runs are recorded.
        output_path: The report goes to `studies/SWEEP/` in it.

    Raises:
        UserError: The sweep's name would lead elsewhere, or its runs hold what no report can be made of.
    """
    address = server_address(tracking)
    experiments = dict(zip(runs["run_id"], runs["experiment_id"], strict=True))
    sweep = runs["sweep"].iloc[0]
    # On a shared server, anybody can write tags.
    require(is_plain_name(sweep), "sweep", sweep, PLAIN_NAME, "Use another sweep.")
    directory = output_path / "studies" / sweep
    with talking_to(tracking.server):
        compared = _answered(runs)
    added = seeds_added_after_a_look(runs)
    report = make_report(compared, statistics, ALL_WAYS, asks, added, _kept_images(output_path))
    print_report(report, console())
    arms = [arm for section in report.sections for arm in section.group.arms]
    write_report(report, compared, directory, lambda run_id: run_link(address, experiments[run_id], run_id))
    _tell_where(directory)
    with talking_to(tracking.server):
        name_runs(arms)
        for experiment_id, experiment_runs in runs.groupby("experiment_id", sort=False):
            record_report(str(experiment_id), experiment_runs, markdown_page(report), directory)
        views = publish_views(runs, report.answer)
    console().print(how_to_look(views, tracking, output_path), soft_wrap=True)


def conclude_studies(
    studies: Sequence[pd.DataFrame], names: Sequence[str], statistics: Statistics, asks: Asks, output_path: Path
) -> None:
    """Compares the runs of several studies with each other; prints and writes the report.

    Args:
        studies: Finished runs of each.
        names: Of the studies; the report goes to `studies/NAME+NAME/` in `output_path`, or to a digest
            of names that are too many for the name of a folder.
        statistics: How sure a verdict has to be.
        asks: What the question is about; where it does not say, what the runs have recorded of it.
        output_path: The `output_dir`.
    """
    _conclude_tables([_answered(runs) for runs in studies], names, statistics, asks, output_path)


def conclude_snapshots(snapshots: Sequence[Path], statistics: Statistics, asks: Asks, output_path: Path) -> None:
    """The same from files that earlier reports have written, one or several, without a store.

    Raises:
        ConfigError: One of the files is none of these.
    """
    tables = [read_snapshot(snapshot) for snapshot in snapshots]
    _conclude_tables(tables, [snapshot.stem for snapshot in snapshots], statistics, asks, output_path)


def _answered(runs: pd.DataFrame) -> pd.DataFrame:
    """Recorded runs with their answers; raises `UserError` if a report cannot be made of them."""
    answered = with_answers(runs)
    if fault := next(faults(answered), None):
        raise UserError(
            f"These runs cannot be compared: the store {fault}. Delete such runs, or compare another study or sweep."
        )
    return answered


def _conclude_tables(
    tables: Sequence[pd.DataFrame], names: Sequence[str], statistics: Statistics, asks: Asks, output_path: Path
) -> None:
    runs = together(tables)
    name = "+".join(names)
    directory = output_path / "studies" / (name if is_short(name) else digest_of(name))
    report = make_report(runs, statistics, ALL_WAYS, asks, find_images=_kept_images(output_path))
    print_report(report, console())
    write_report(report, runs, directory, link=None)
    _tell_where(directory)


def _kept_images(output_path: Path) -> FindImages:
    """Finds the test images that runs of an `output_dir` have decoded."""
    return partial(find_images, output_path / "cache")


def finished(runs: pd.DataFrame) -> pd.DataFrame:
    """Those of some runs that have ended well."""
    return runs[runs["status"] == "FINISHED"] if len(runs) else runs


def _tell_where(directory: Path) -> None:
    console().print(f"Report: {directory / File.REPORT_PAGE}", soft_wrap=True)
