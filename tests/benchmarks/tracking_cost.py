"""How much of a training's wall time goes into tracking: `python tests/benchmarks/tracking_cost.py study=heads`.

Takes the arguments of `python -m pipeline.train`, runs it, and prints the seconds spent in each function that records,
draws for the record, or reads it back. Recording runs in the training's own thread, so these seconds are what it costs.
"""

from __future__ import annotations

import functools
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psutil

from pipeline import run_page, train
from pipeline.tracking import store, study
from pipeline.tracking.record import RunRecord

seconds: Counter[str] = Counter()
calls: Counter[str] = Counter()


@contextmanager
def _timed(name: str) -> Iterator[None]:
    began = time.perf_counter()
    try:
        yield
    finally:
        seconds[name] += time.perf_counter() - began
        calls[name] += 1


def _time(owner: Any, name: str) -> None:
    function: Callable[..., Any] = getattr(owner, name)

    @functools.wraps(function)
    def timed(*arguments: Any, **keywords: Any) -> Any:
        with _timed(f"{owner.__name__.rpartition('.')[2]}.{name}"):
            return function(*arguments, **keywords)

    setattr(owner, name, timed)


def main() -> None:
    """Times a training and prints the table."""
    began = psutil.Process().create_time()
    for owner, names in (
        (RunRecord, ("epoch", "pairing", "fit", "test", "cost", "sizes", "model", "page", "register")),
        (run_page, ("draw", "describe")),
        (store, ("open_store",)),
        (study, ("runs_of_sweep", "with_answers", "record_report", "publish_views", "run")),
    ):
        for name in names:
            _time(owner, name)
    start_run = train.start_run

    @contextmanager
    def timed_run(*arguments: Any) -> Iterator[RunRecord]:
        run = start_run(*arguments)
        with _timed("start_run, first half"):
            record = run.__enter__()
        yield record
        with _timed("start_run, second half"):
            run.__exit__(None, None, None)

    train.start_run = timed_run  # type: ignore[assignment]
    train.main()
    wall = time.time() - began
    print("\n| tracking | calls | seconds | share |\n|---|---:|---:|---:|")
    for name, spent in seconds.most_common():
        print(f"| {name} | {calls[name]} | {spent:.2f} | {spent / wall:.1%} |")
    total = sum(seconds.values())
    print(f"| all | | {total:.2f} of {wall:.1f} | {total / wall:.1%} |")


if __name__ == "__main__":
    sys.argv[0] = "pipeline.train"
    main()
