"""Where the wall time of a training goes: `python tests/benchmarks/profile_run.py dataset=fashion_mnist`.

Takes the arguments of `python -m pipeline.train`, runs it in this process, and prints two tables: the parts of the
whole, from the start of the process to its end, and the functions that track. A part's seconds do not hold those of a
part within it. With several runs, they are those of all together.
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

BEGAN = psutil.Process().create_time()

from pipeline.train_old import main

from pipeline.data.settings import Dataset
from pipeline.run import train
from pipeline.tracking.record import RunRecord
from pipeline.training.callbacks import progress_line

PARTS = (
    (cli, "import_tensorflow", "import TensorFlow and Keras"),
    (store, "open_store", "import MLflow, open the store"),
    (size_probe, "plan_sizes", "plan the sizes"),
    (Dataset, "load", "open or decode the dataset"),
    (model, "build_model", "build the model"),
    (pairing, "pairing_of", "first batch, for the pairing"),
    (training, "fit", "train: all but the first step"),
    (evaluation, "predict", "test"),
    (cost, "measure_cost", "cost"),
    (size_probe, "measure_sizes", "probe the sizes"),
)
TRACKING = (
    (RunRecord, ("epoch", "pairing", "fit", "test", "cost", "sizes", "model", "page", "register")),
    (run_page, ("draw", "describe")),
    (study, ("runs_of_sweep", "with_answers", "record_report", "publish_views", "run")),
    (compare, ("show_run",)),
)
TRACK = "track"
FIRST_STEP = "train: first step or steps at once, which traces and compiles"
COMPOSE = "start Python, import the program, compose and check the configuration"

seconds: Counter[str] = Counter()
calls: Counter[str] = Counter()
open_parts: list[str] = []


@contextmanager
def _timed(name: str) -> Iterator[None]:
    """Adds the seconds within to `name`, and takes them from the part around it."""
    began = time.perf_counter()
    open_parts.append(name)
    try:
        yield
    finally:
        open_parts.pop()
        spent = time.perf_counter() - began
        seconds[name] += spent
        calls[name] += 1
        if open_parts:
            seconds[open_parts[-1]] -= spent


def _time(owner: Any, function_name: str, part: str) -> None:
    function: Callable[..., Any] = getattr(owner, function_name)

    @functools.wraps(function)
    def timed(*arguments: Any, **keywords: Any) -> Any:
        with _timed(part):
            return function(*arguments, **keywords)

    setattr(owner, function_name, timed)


def _time_first_step() -> None:
    """Splits `fit`: Keras traces and compiles in the first step of each training."""
    progress = progress_line

    def timed_progress(*arguments: Any) -> Any:
        callback = progress(*arguments)
        on_train_batch_end, began = callback.on_train_batch_end, time.perf_counter()

        def on_first(batch: int, logs: dict[str, float] | None = None) -> None:
            callback.on_train_batch_end = on_train_batch_end
            seconds[FIRST_STEP] += time.perf_counter() - began
            seconds[open_parts[-1]] -= time.perf_counter() - began
            calls[FIRST_STEP] += 1
            on_train_batch_end(batch, logs)

        callback.on_train_batch_end = on_first
        return callback

    progress_line = timed_progress


def _time_start_of_run() -> None:
    start_run = train.start_run

    @contextmanager
    def timed_run(*arguments: Any) -> Iterator[RunRecord]:
        run = start_run(*arguments)
        with _timed(f"{TRACK}: start_run, first half"):
            running = run.__enter__()
        yield running
        with _timed(f"{TRACK}: start_run, second half"):
            run.__exit__(None, None, None)

    train.start_run = timed_run  # type: ignore[assignment]


def _time_composing() -> None:
    run_one = train

    @functools.wraps(run_one)
    def first_run(*arguments: Any, **keywords: Any) -> Any:
        seconds.setdefault(COMPOSE, time.time() - BEGAN)
        return run_one(*arguments, **keywords)

    train = first_run  # type: ignore[assignment]


def _table(title: str, rows: list[tuple[str, float]], wall: float) -> str:
    lines = [f"| {title} | calls | seconds | share |", "|---|---:|---:|---:|"]
    lines += [f"| {name} | {calls[name] or 1} | {spent:.2f} | {spent / wall:.1%} |" for name, spent in rows]
    return "\n".join(lines)


def main() -> None:
    """Times a training and prints the tables."""
    for owner, name, part in PARTS:
        _time(owner, name, part)
    for owner, names in TRACKING:
        for name in names:
            _time(owner, name, f"{TRACK}: {owner.__name__.rpartition('.')[2]}.{name}")
    _time_first_step()
    _time_start_of_run()
    _time_composing()
    main()
    wall = time.time() - BEGAN
    tracking = [(name, spent) for name, spent in seconds.most_common() if name.startswith(TRACK)]
    calls[TRACK] = sum(calls[name] for name, _ in tracking)
    parts = [(name, seconds[name]) for name in (COMPOSE, *(part for _, _, part in PARTS), FIRST_STEP) if seconds[name]]
    parts += [(TRACK, sum(spent for _, spent in tracking))]
    rest = wall - sum(spent for _, spent in parts)
    parts += [("rest", rest), ("all", wall)]
    print(f"\n{_table('part', parts, wall)}\n\n{_table('tracking', tracking, wall)}")


if __name__ == "__main__":
    sys.argv[0] = "pipeline.train"
    main()
