"""Tables in the terminal: whole numbers, whole names, at any width."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from pipeline.common.table import Table, for_terminal

TABLE = Table(
    ("arm", ">test accuracy", ">in the head", "what happens above"),
    (
        ("flatten_dense", "0.9242 [0.9196, 0.9288]", "31,370", "refuses"),
        ("global_average_pool", "0.9068 [0.9017, 0.9120]", "650", "crops (35–49 px), refuses (56 px)"),
    ),
    "Mean over the seeds.",
)


def _shown(table: Table, width: int, title: str = "") -> list[str]:
    console = Console(file=io.StringIO(), width=width)
    console.print(for_terminal(table, title, width))
    return console.file.getvalue().splitlines()  # type: ignore[attr-defined]


@pytest.mark.parametrize("width", [44, 60, 80, 100, 140, 200])
def test_no_number_and_no_name_is_cut(width: int) -> None:
    lines = _shown(TABLE, width, "small_fcn")
    text = "\n".join(lines)
    assert max(map(len, lines)) <= width
    assert "…" not in text
    for row in TABLE.rows:
        for cell in row[:3]:
            assert cell in text
        for word in row[3].split():
            assert word in text
    assert text.count("small_fcn") == text.count("Mean over the seeds.") == 1


def test_columns_that_do_not_fit_follow_below_beside_the_names() -> None:
    """Names 3 + 19, accuracy 3 + 23, in the head 3 + 6, words 3 + 16, and a line: 77 characters in all."""
    frame = [line for line in _shown(TABLE, 77) if line.startswith("┏")]
    assert len(frame) == 1
    parts = [line for line in _shown(TABLE, 76) if line.startswith("┏")]
    assert [line.count("┳") for line in parts] == [2, 1]  # Three columns, then the names again and one more.


def test_where_no_column_fits_beside_the_names_each_row_is_a_block() -> None:
    """Names and accuracy alone take 1 + 22 + 26 = 49 characters."""
    assert any(line.startswith("┏") for line in _shown(TABLE, 49))
    lines = [line.rstrip() for line in _shown(TABLE, 48)]
    assert lines[:3] == [
        "arm                 flatten_dense",
        "test accuracy       0.9242 [0.9196, 0.9288]",
        "in the head         31,370",
    ]


def test_cells_and_titles_are_no_markup() -> None:
    text = "\n".join(_shown(Table(("[b]", ">n"), (("[/x]:smile:", "1"),), "[/c]"), 80, "[/t]"))
    for words in ("[b]", "[/x]:smile:", "[/c]", "[/t]"):
        assert words in text
