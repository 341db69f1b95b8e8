"""How many runs of a call of a study have ended, and how long the others take: for the front page and terminals."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from pipeline.common.names import SWEEP_RUNS, sweep_tag


@dataclass(frozen=True)
class Progress:
    """How far a call has come.

    Attributes:
        asked: How many runs it asks for; None where that is not known.
        ended: How many of these have ended.
        pace: Seconds from the end of one of its runs to that of the next; NaN before the first.
        last_end: When the newest ended, in seconds since 1970; when it was called, before the first.
        seconds_left: About so long until the last run ends; None where that cannot be told yet.
    """

    asked: int | None
    ended: int
    pace: float
    last_end: float
    seconds_left: float | None

    @classmethod
    def of(cls, members: Sequence[Mapping[str, Any]], sweep: str, now: float) -> Progress:
        """From its runs so far.

        Args:
            members: Its runs, in all experiments, as `mlflow.search_runs` gives them.
            sweep: Its name.
            now: The time, in seconds since 1970.
        """
        since = call_time(members, sweep)
        sizes = [recorded_number(row.get(f"tags.{sweep_tag(sweep, SWEEP_RUNS)}")) for row in members]
        known = [int(size) for size in sizes if size >= 1]
        asked = max(known) if known else None
        ended = sum(row["status"] in ("FINISHED", "FAILED") for row in members)
        ends, began = [since], []
        for row in members:
            if row["status"] == "RUNNING" or pd.isna(row["end_time"]):
                continue
            if (end := row["end_time"].timestamp()) > since:
                ends.append(end)  # Those that ended before it was called are taken over.
                # A run that goes on keeps the start that it had.
                began.append(max(row["start_time"].timestamp(), _membership(row, sweep)))
        # What runs at the same time makes the pace as well.
        pace = (max(ends) - min(began)) / len(began) if began else math.nan
        left = None
        if asked is not None and not math.isnan(pace):
            left = max(0.0, (asked - ended) * pace - (now - max(ends)))
        return cls(asked, ended, pace, max(ends), left)


def call_time(members: Sequence[Mapping[str, Any]], sweep: str) -> float:
    """When a call got hold of its first run, in seconds since 1970."""
    return min(_membership(row, sweep) for row in members)


def recorded_number(value: Any) -> float:
    """A recorded number; NaN for all else: on a shared server, anybody can write tags."""
    is_number = isinstance(value, str) and re.fullmatch(r"\d{1,12}(\.\d{1,6})?", value)
    return float(value) if is_number else math.nan


def left_text(seconds: float | None) -> str:
    """`about 6 min left`; an empty text where it cannot be told."""
    if seconds is None:
        return ""
    if seconds < 60:
        return "less than a minute left"
    if seconds < 90 * 60:
        return f"about {round(seconds / 60)} min left"
    return f"about {round(seconds / 3600)} h left"


def _membership(row: Mapping[str, Any], sweep: str) -> float:
    """When a run came to a call; where its tag is no time, its start."""
    since = recorded_number(row.get(f"tags.{sweep_tag(sweep)}"))
    return float(row["start_time"].timestamp()) if math.isnan(since) else since
