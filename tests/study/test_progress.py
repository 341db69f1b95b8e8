"""How far a sweep is, counted and timed, and the line about each run of it in the terminal."""

from __future__ import annotations

import logging
import math
from typing import Any

import pandas as pd
import pytest

from pipeline.study import progress as told
from pipeline.study.progress import tell_progress
from pipeline.tracking.progress import Progress, left_text

CALLED = 1_800_000_000.0
"""Seconds since 1970 at which the sweep is called."""


def _row(name: str, began: float, ended: float | None, status: str = "FINISHED") -> dict[str, Any]:
    """A run of nine, with times in seconds after `CALLED`."""
    return {
        "run_id": f"id of {name}",
        "status": status,
        "start_time": pd.Timestamp(CALLED + began, unit="s", tz="UTC"),
        "end_time": pd.NaT if ended is None else pd.Timestamp(CALLED + ended, unit="s", tz="UTC"),
        "tags.mlflow.runName": name,
        "tags.sweep.now": f"{CALLED + max(began, 0):.3f}",
        "tags.sweep_runs.now": "9",
        "metrics.test/accuracy": 0.90716,
    }


THREE = [_row(f"pool seed {seed}", 60 * seed, 60 * seed + 60) for seed in range(3)]


def test_the_pace_is_that_of_the_runs_of_this_call() -> None:
    # Three runs took 180 s. Six are left, and 20 s have passed since: 6 · 60 - 20.
    assert Progress.of(THREE, "now", CALLED + 200) == Progress(9, 3, 60.0, CALLED + 180, 340.0)
    # A failed run counts, a killed one does not: 5 are left, at 240 s for five runs.
    more = [*THREE, _row("pool seed 3", 180, 200, "FAILED"), _row("pool seed 4", 200, 240, "KILLED")]
    assert Progress.of(more, "now", CALLED + 240) == Progress(9, 4, 48.0, CALLED + 240, 5 * 48.0)
    # One that ended before is taken over, and makes no pace; one at work has no end.
    before, now = _row("pool seed 0", -100, -40), _row("pool seed 1", 5, None, "RUNNING")
    found = Progress.of([before, now], "now", CALLED + 10)
    assert (found.asked, found.ended, math.isnan(found.pace), found.seconds_left) == (9, 1, True, None)


def test_time_is_told_in_words() -> None:
    words = {None: "", 59.9: "less than a minute left", 340.0: "about 6 min left", 9000.0: "about 2 h left"}
    assert {seconds: left_text(seconds) for seconds in words} == words


def test_a_run_that_has_ended_gets_a_line(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    caplog.set_level(logging.INFO, logger="pipeline")
    monkeypatch.setattr(told, "runs_of_sweep", lambda sweep: pd.DataFrame(THREE))
    monkeypatch.setattr("pipeline.study.progress.time.time", lambda: CALLED + 200)
    tell_progress("id of pool seed 2", "now")
    tell_progress("of another machine", "now")
    assert caplog.messages == ["run 3 of 9 · pool seed 2 · test accuracy 0.9072 · about 6 min left"]

    # After the last one, nothing is left.
    nine = [_row(f"pool seed {seed}", seed, seed + 1) for seed in range(9)]
    monkeypatch.setattr(told, "runs_of_sweep", lambda sweep: pd.DataFrame(nine))
    tell_progress("id of pool seed 8", "now")
    assert caplog.messages[1:] == ["run 9 of 9 · pool seed 8 · test accuracy 0.9072"]
