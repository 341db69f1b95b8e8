"""A report in the terminal."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape
from rich.table import Table as RichTable

from pipeline.comparison.report.report import Report
from pipeline.comparison.report.tables import Table


def print_report(report: Report, console: Console) -> None:
    """Prints the answer first, then what it rests on; each other size and each class are in the files alone."""
    console.print()
    console.print(report.answer)
    for warning in report.warnings:
        console.print(f"Mind: {warning}.")
    if report.contrasts is not None:
        console.print(_rendered(report.contrasts, ""))
    for section in report.sections:
        console.print()
        if section.conclusion is not None:
            console.print(section.conclusion)
        console.print(_rendered(section.arms, section.group.title))
        if section.group.comparisons:
            console.print(_rendered(section.headline, ""))
        for table in section.ways[:1]:
            console.print(_rendered(table, "How to run the trained models at other sizes"))
        for table in section.scores[:1]:
            console.print(_rendered(table, "Scores beside accuracy"))
        console.print(section.control)
        for line in section.group.left_out:
            console.print(f"Left out: {line}.")
    console.print(report.limits)


def _rendered(table: Table, title: str) -> RichTable:
    shown = RichTable(title=title, caption=table.caption)
    for heading, number in table.headings:
        shown.add_column(heading, justify="right" if number else "left")
    for row in table.rows:
        shown.add_row(*(escape(cell) for cell in row))  # A class may be named like Rich's markup.
    return shown
