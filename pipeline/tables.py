"""Tables for any medium, and numbers in words."""

from __future__ import annotations

from dataclasses import dataclass

from rich.table import Table as RichTable

from pipeline.inference import Estimate


@dataclass(frozen=True)
class Table:
    """Cells for any medium.

    Attributes:
        columns: Headings; those of numbers begin with `>` and are set to the right.
        rows: Of text, as many cells as there are columns.
        caption: Below it.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    caption: str = ""

    @property
    def headings(self) -> list[tuple[str, bool]]:
        """Each heading, and whether its column is one of numbers."""
        return [(column.removeprefix(">"), column.startswith(">")) for column in self.columns]


def terminal(table: Table, title: str) -> RichTable:
    """A table for the terminal."""
    shown = RichTable(title=title, caption=table.caption)
    for heading, number in table.headings:
        shown.add_column(heading, justify="right" if number else "left")
    for row in table.rows:
        shown.add_row(*row)
    return shown


def markdown(table: Table) -> str:
    """A table for a README."""
    lines = [" | ".join(heading for heading, _ in table.headings)]
    lines.append(" | ".join("---:" if number else "---" for _, number in table.headings))
    lines += [" | ".join(cell.replace("|", "\\|") for cell in row) for row in table.rows]
    return "\n".join(f"| {line} |" for line in lines) + (f"\n\n{table.caption}\n" if table.caption else "\n")


def interval_text(difference: Estimate, confidence: float) -> str:
    """`+1.75 [+1.43, +2.04]`, in points."""
    low, high = difference.interval(confidence)
    middle, low, high = (round(100 * value, 2) + 0.0 for value in (difference.mean, low, high))  # No −0.00.
    return f"{middle:+.2f} [{low:+.2f}, {high:+.2f}]"


def accuracy_text(accuracy: Estimate, confidence: float) -> str:
    """`0.9242 [0.9198, 0.9288]`."""
    low, high = accuracy.interval(confidence)
    return f"{accuracy.mean:.4f} [{max(low, 0.0):.4f}, {min(high, 1.0):.4f}]"


def points_text(difference: float) -> str:
    """`1.75 points`: hundredths of accuracy."""
    return f"{100 * difference:.2f} points"
