"""Where the wall time of a training goes: `python tests/benchmarks/profile_run.py dataset=fashion_mnist`.

Takes the arguments of `python -m pipeline.train`, runs it in this process, and prints two tables: the parts of the
whole, from the start of the process to its end, and the functions that track. A part's seconds do not hold those of a
part within it. With several runs, they are those of all together.
"""

from __future__ import annotations

import functools
import pkgutil
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psutil

from pipeline import train
from pipeline.cli.terminal import import_tensorflow

BEGAN = psutil.Process().create_time()
TENSORFLOW = "import TensorFlow and Keras"
STORE = "import MLflow and the rest, open the store"
PARTS = (
    ("pipeline.tracking.store", "open_store", STORE),
    ("pipeline.other_sizes.plan.SizePlan", "__init__", "plan the sizes"),
    ("pipeline.other_sizes.plan.SizePlan", "sizes", "plan the sizes"),
    ("pipeline.data.source", "load", "open or decode the dataset"),
    ("pipeline.models.build", "build_model", "build the model"),
    ("pipeline.training.pairing", "pairing_of", "first batch, for the pairing"),
    ("pipeline.training.fit", "fit", "train: all but the first step"),
    ("pipeline.models.predict", "predict", "test"),
    ("pipeline.models.cost", "measure_cost", "cost"),
    ("pipeline.other_sizes.measure", "measure_sizes", "probe the sizes"),
)
"""Functions by the module or class that holds them, and the part that each is."""
RECORD = ("epoch", "pairing", "fit", "test", "cost", "sizes", "model", "page")
TRACKING = (
    ("pipeline.tracking.record.RunRecord", (*(f"log_{name}" for name in RECORD), "register")),
    ("pipeline.tracking.run_page", ("draw", "describe")),
    ("pipeline.tracking.queries", ("runs_of_sweep", "with_answers", "one_run")),
    ("pipeline.tracking.publish", ("record_report", "publish_views")),
    ("pipeline.study.links", ("show_run",)),
)
TRACK = "track"
FIRST_STEP = "train: first step or steps at once, which traces and compiles"
COMPOSE = "start Python, import the program, compose and check the configuration"

seconds: dict[str, float] = defaultdict(float)
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

    _replace(owner, function_name, timed)


def _replace(owner: Any, name: str, new: Any) -> None:
    """Replaces a function where it is defined, and in the modules of the program that imported it by name."""
    old = getattr(owner, name)
    setattr(owner, name, new)
    for module in [module for module_name, module in sys.modules.items() if module_name.startswith("pipeline.")]:
        if vars(module).get(name) is old:
            setattr(module, name, new)


def _time_first_step() -> None:
    """Splits `fit`: Keras traces and compiles in the first step of each training."""
    from pipeline.training import callbacks

    progress = callbacks.progress_line

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

    _replace(callbacks, "progress_line", timed_progress)


def _time_start_of_run() -> None:
    from pipeline.tracking import record

    start_run = record.start_run

    @contextmanager
    def timed_run(*arguments: Any) -> Iterator[record.RunRecord]:
        run = start_run(*arguments)
        with _timed(f"{TRACK}: start_run, first half"):
            running = run.__enter__()
        yield running
        with _timed(f"{TRACK}: start_run, second half"):
            run.__exit__(None, None, None)

    _replace(record, "start_run", timed_run)


def _import_and_time() -> None:
    """In place of `import_tensorflow`, in the first run: until then the program imports nothing that takes long."""
    seconds[COMPOSE] = time.time() - BEGAN
    vars(train)["import_tensorflow"] = import_tensorflow
    with _timed(TENSORFLOW):
        import_tensorflow()
    with _timed(STORE):
        pkgutil.resolve_name("pipeline.run")
        owners = {where: pkgutil.resolve_name(where) for where, *_ in (*PARTS, *TRACKING)}
    for where, name, part in PARTS:
        _time(owners[where], name, part)
    for where, names in TRACKING:
        for name in names:
            _time(owners[where], name, f"{TRACK}: {where.rpartition('.')[2]}.{name}")
    _time_first_step()
    _time_start_of_run()


def _table(title: str, rows: list[tuple[str, float]], wall: float) -> str:
    lines = [f"| {title} | calls | seconds | share |", "|---|---:|---:|---:|"]
    lines += [f"| {name} | {calls[name] or 1} | {spent:.2f} | {spent / wall:.1%} |" for name, spent in rows]
    return "\n".join(lines)


def main() -> None:
    """Times a training and prints the tables."""
    vars(train)["import_tensorflow"] = _import_and_time
    train.main()
    wall = time.time() - BEGAN
    tracking = [item for item in sorted(seconds.items(), key=lambda item: -item[1]) if item[0].startswith(TRACK)]
    calls[TRACK] = sum(calls[name] for name, _ in tracking)
    names = dict.fromkeys((COMPOSE, TENSORFLOW, *(part for _, _, part in PARTS), FIRST_STEP))
    parts = [(name, seconds[name]) for name in names if seconds[name]]
    parts += [(TRACK, sum(spent for _, spent in tracking))]
    rest = wall - sum(spent for _, spent in parts)
    parts += [("rest", rest), ("all", wall)]
    print(f"\n{_table('part', parts, wall)}\n\n{_table('tracking', tracking, wall)}")


if __name__ == "__main__":
    sys.argv[0] = "pipeline.train"
    main()
