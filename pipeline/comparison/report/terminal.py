"""A report in the terminal."""

from __future__ import annotations

from rich.console import Console

from pipeline.common.table import Table, for_terminal
from pipeline.comparison.report.report import Report

BEST_WAY = 4
"""Columns of the table of ways up to the accuracy of the best one; the rest is in the files."""


def print_report(report: Report, console: Console) -> None:
    """Prints the answer first, then what it rests on; each other size and each class are in the files alone."""

    def show(table: Table, title: str = "") -> None:
        console.print(for_terminal(table, title, console.width))

    console.print()
    console.print(report.answer)
    for warning in report.warnings:
        console.print(f"Mind: {warning}.")
    if report.contrasts is not None:
        show(report.contrasts)
    for section in report.sections:
        console.print()
        if section.conclusion is not None:
            console.print(section.conclusion)
        show(section.arms, section.group.title)
        if section.group.comparisons:
            show(section.headline)
        for table in section.ways[:1]:
            show(table.first_columns(BEST_WAY), "How to run the trained models at other sizes")
        for table in section.scores[:1]:
            show(table, "Scores beside accuracy")
        console.print(section.control)
        for line in section.group.left_out:
            console.print(f"Left out: {line}.")
    console.print(report.limits)
