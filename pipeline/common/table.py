"""Tables for any medium, and how the terminal shows one."""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table as RichTable
    from rich.text import Text

NARROWEST_TEXT = 16
"""Characters of a column of text below which its cells become too tall to read."""
FRAME = 3
"""Characters that the frame takes beside each column: its line and a blank on either side."""


@dataclass(frozen=True)
class Table:
    """Cells for any medium.

    Attributes:
        columns: Headings; those of numbers begin with `>` and are set to the right.
        rows: Of text, as many cells as there are columns.
        caption: Below it.
        names: How many columns, from the first on, say what a row is about.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    caption: str = ""
    names: int = 1

    @property
    def headings(self) -> list[tuple[str, bool]]:
        """Each heading, and whether its column is one of numbers."""
        return [(column.removeprefix(">"), column.startswith(">")) for column in self.columns]

    def first_columns(self, count: int) -> Table:
        """The same with its first columns alone."""
        return dataclasses.replace(self, columns=self.columns[:count], rows=tuple(row[:count] for row in self.rows))


def for_terminal(table: Table, title: str, width: int) -> Group:
    """The table for a terminal of `width` characters: numbers and names stay whole, words break at blanks.

    Columns that do not fit side by side are shown in several parts, each with the names of the rows. Where not even one
    fits beside these, each row is a block with a line a column.
    """
    from rich.console import Group

    parts = _parts(table, width)
    shown = [_side_by_side(table, columns, width) for columns in parts] or [_in_blocks(table)]
    shown[0].title = _text(title) if title else None
    # Below all parts, and as wide as the terminal.
    return Group(*shown, *([_text(table.caption)] if table.caption else []))


def _parts(table: Table, width: int) -> list[list[int]]:
    """Which columns stand side by side in each part; none where no part fits."""
    needed = [FRAME + least for least, _ in _columns(table)]
    names = list(range(table.names))
    room = width - 1 - sum(needed[index] for index in names)
    parts: list[list[int]] = []
    left = 0
    for index in range(table.names, len(needed)):
        if needed[index] > room:
            return []
        if needed[index] > left:
            parts.append([*names])
            left = room
        parts[-1].append(index)
        left -= needed[index]
    return parts


def _columns(table: Table) -> list[tuple[int, bool]]:
    """Of each column: the fewest characters that it can have, and whether its cells stay whole."""
    from rich.cells import cell_len

    def longest(texts: Iterable[str]) -> int:
        return max(map(cell_len, texts), default=0)

    found = []
    for index, (heading, number) in enumerate(table.headings):
        cells = [row[index] for row in table.rows]
        whole = number or index < table.names
        words = longest(word for text in (heading, *(() if whole else cells)) for word in text.split())
        found.append((max(words, longest(cells) if whole else min(longest(cells), NARROWEST_TEXT)), whole))
    return found


def _side_by_side(table: Table, columns: Sequence[int], width: int) -> RichTable:
    from rich.cells import cell_len
    from rich.table import Table as RichTable

    shown = RichTable()
    measured = _columns(table)
    room = width - 1 - sum(FRAME + measured[index][0] for index in columns)
    for index in columns:
        (heading, number), (least, whole) = table.headings[index], measured[index]
        # Rich breaks the heading of no column whose cells stay whole; it is broken here where there is no room for it.
        more = max(0, cell_len(heading) - least) if whole else 0
        lines = heading if more <= room else "\n".join(textwrap.wrap(heading, least))
        room -= more if more <= room else 0
        shown.add_column(_text(lines), justify="right" if number else "left", overflow="fold", no_wrap=whole)
    for row in table.rows:
        shown.add_row(*(_text(row[index]) for index in columns))
    return shown


def _in_blocks(table: Table) -> RichTable:
    from rich.table import Table as RichTable

    shown = RichTable.grid(padding=(0, 2, 0, 0))
    shown.add_column(overflow="fold")
    shown.add_column(overflow="fold")
    for index, row in enumerate(table.rows):
        for (heading, _), cell in zip(table.headings, row, strict=True):
            shown.add_row(_text(heading), _text(cell))
        if index < len(table.rows) - 1:
            shown.add_row()
    return shown


def _text(words: str) -> Text:
    """Words as they are: no markup, no emoji."""
    from rich.text import Text

    return Text(words)
