"""A report's files: a web page, Markdown, pictures, and the table that they are made of."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas as pd

from pipeline.common.files import atomic_write, remove_leftovers
from pipeline.common.names import File
from pipeline.comparison.report.figures import figures
from pipeline.comparison.report.markdown import markdown_page
from pipeline.comparison.report.page import web_page
from pipeline.comparison.report.report import Report
from pipeline.comparison.snapshot import write_snapshot


def write_report(report: Report, runs: pd.DataFrame, directory: Path, link: Callable[[str], str] | None) -> None:
    """Writes a report into a directory.

    Args:
        report: What it says.
        runs: What it is made of; from what is written of them, it can be made again.
        directory: Of its own, beside those of other reports.
        link: Address of a run's page, given its id; None where there is none.

    Raises:
        OSError: It cannot be written.
    """
    for of_a_report in directory.parent.glob("*/"):  # A command given again writes into another one.
        remove_leftovers(of_a_report)
    drawn = [figures(section.group, report.statistics, report.ways) for section in report.sections]
    pages = {File.REPORT_PAGE: web_page(report, drawn, link), File.REPORT_TEXT: markdown_page(report)}
    for file, page in pages.items():
        with atomic_write(directory / file) as beside:
            beside.write_text(page)
    write_snapshot(runs, directory / File.SNAPSHOT)
    for section, pictures in zip(report.sections, drawn, strict=True):
        for name, figure in pictures.items():
            with atomic_write(directory / f"{section.group.file_name}-{name}.png") as beside:
                figure.savefig(beside)
