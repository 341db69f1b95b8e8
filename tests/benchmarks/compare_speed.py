"""The program against a hand-written Keras script, or against itself: deterministic, or without its guards.

    python tests/benchmarks/compare_speed.py --pairs 5
    python tests/benchmarks/compare_speed.py --pairs 5 --deterministic
    python tests/benchmarks/compare_speed.py --pairs 5 --guards

Machines are noisy and change their speed within minutes, so the two sides run in pairs, one right after the other,
taking turns in going first, and what counts is the ratio within a pair. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import mlflow

ROOT = Path(__file__).parents[2]
SCRIPT = Path(__file__).with_name("bare_keras.py")
UNGUARDED = Path(__file__).with_name("unguarded.py")
PROGRAM = ("-m", "pipeline.train")


@dataclass(frozen=True)
class Work:
    """What both sides of a pair do.

    Attributes:
        dataset: Name of the dataset.
        epochs: Passes over the training images.
        batch_size: Images in a step.
        side: Height and width of the images in px.
    """

    dataset: str
    epochs: int
    batch_size: int
    side: int


WORK = {
    work.dataset: work
    for work in (
        Work("fashion_mnist", epochs=3, batch_size=128, side=28),
        Work("digits", epochs=10, batch_size=32, side=8),
    )
}


@dataclass(frozen=True)
class Measured:
    """One run of one side.

    Attributes:
        images_per_second: Training images a second, without validation and without the first epoch.
        wall_seconds: From starting the process to its end.
        test_accuracy: Top-1 accuracy, to see that both sides learned the same.
    """

    images_per_second: float
    wall_seconds: float
    test_accuracy: float


@dataclass(frozen=True)
class Side:
    """One of the two that are compared: a name for the table, and how to run it."""

    name: str
    run: Callable[[Work], Measured]


def run_program(work: Work, *overrides: str, program: tuple[str, ...] = PROGRAM) -> Measured:
    """Runs one training of the program and reads its record back.

    Only the training size is probed and the model is not recorded, since the script does neither: otherwise the wall
    times would compare different work. Predictions, cost, parameters and metrics are still recorded. Neither setting
    changes the images per second.
    """
    with tempfile.TemporaryDirectory() as directory:
        seconds, _ = _run_process(
            directory,
            *program,
            "head=global_average_pool",
            f"dataset={work.dataset}",
            f"training.epochs={work.epochs}",
            f"training.batch_size={work.batch_size}",
            f"size_probe.sizes=[{work.side}]",
            "tracking.log_model=false",
            f"output_dir={directory}",
            *overrides,
        )
        mlflow.set_tracking_uri(f"sqlite:///{directory}/mlflow.db")
        run = mlflow.search_runs(search_all_experiments=True).iloc[0]
        return Measured(run["metrics.train/images_per_second"], seconds, run["metrics.test/accuracy"])


def run_script(work: Work) -> Measured:
    """Runs the hand-written script and reads its line of JSON."""
    with tempfile.TemporaryDirectory() as directory:
        seconds, output = _run_process(directory, str(SCRIPT), work.dataset, str(work.epochs), str(work.batch_size))
    result = json.loads(output.splitlines()[-1])
    return Measured(result["images_per_second"], seconds, result["test_accuracy"])


def compare(work: Work, first: Side, second: Side, pairs: int) -> str:
    """Runs both sides `pairs` times in turn; returns their row of the table."""
    _log(f"{work.dataset}: warming up")
    # Prepares the dataset, writes byte code and fills the page cache, which only the very first runs would pay for.
    for side in (first, second):
        side.run(Work(work.dataset, 1, work.batch_size, work.side))
    results: dict[Side, list[Measured]] = {first: [], second: []}
    for pair in range(pairs):
        for side in (first, second) if pair % 2 == 0 else (second, first):
            measured = side.run(work)
            results[side].append(measured)
            _log(
                f"{work.dataset} {pair + 1}/{pairs} {side.name}: {measured.images_per_second:,.0f} images/s, "
                f"{measured.wall_seconds:.1f} s, test accuracy {measured.test_accuracy:.4f}"
            )
    speeds, walls, accuracies = (
        [[getattr(measured, figure) for measured in results[side]] for side in (first, second)]
        for figure in ("images_per_second", "wall_seconds", "test_accuracy")
    )
    cells = [
        work.dataset,
        *(f"{statistics.median(speed):,.0f}" for speed in speeds),
        _ratios(*speeds),
        *(f"{statistics.median(wall):.1f}" for wall in walls),
        _ratios(*walls),
        *(f"{statistics.median(accuracy):.4f}" for accuracy in accuracies),
    ]
    return _row(cells)


def header(first: Side, second: Side) -> str:
    """The head of the table that `compare` makes rows of."""
    ratio = f"{first.name} / {second.name}"
    titles = ["dataset"]
    for quantity in ("images/s", "wall time s"):
        titles += [f"{quantity}, {first.name}", f"{quantity}, {second.name}", f"{quantity}, {ratio}"]
    titles += [f"test accuracy, {side.name}" for side in (first, second)]
    return "\n".join([_row(titles), _row(["---"] + ["---:"] * (len(titles) - 1))])


def main() -> None:
    """Compares, then prints the table on standard output; progress goes to standard error."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=5, help="runs of each side (default: %(default)s)")
    parser.add_argument("--dataset", nargs="+", choices=WORK, default=list(WORK), help="default: all")
    against = parser.add_mutually_exclusive_group()
    against.add_argument(
        "--guards", action="store_true", help="compare the program to itself without what makes it resumable instead"
    )
    against.add_argument(
        "--deterministic",
        action="store_true",
        help="compare the program with training.deterministic=true to itself with false instead",
    )
    arguments = parser.parse_args()
    if arguments.pairs < 1:
        parser.error(f"--pairs {arguments.pairs}: must be at least 1")
    if arguments.deterministic:
        first = Side("deterministic", lambda work: run_program(work, "training.deterministic=true"))
        second = Side("default", lambda work: run_program(work, "training.deterministic=false"))
    elif arguments.guards:
        first = Side("program", run_program)
        second = Side("unguarded", lambda work: run_program(work, program=(str(UNGUARDED),)))
    else:
        first, second = Side("program", run_program), Side("script", run_script)

    rows = [compare(WORK[dataset], first, second, arguments.pairs) for dataset in arguments.dataset]
    print("\n".join([header(first, second), *rows]))
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("tensorflow", "keras"))
    print(
        f"\nPairs: {arguments.pairs}. Figures are medians; ratios are within each pair: median (min–max). "
        f"{os.cpu_count()} CPUs, {versions}. The program probes one image size and records no model "
        "(size_probe.sizes=[training size] tracking.log_model=false)."
    )


def _run_process(directory: str, *arguments: str) -> tuple[float, str]:
    """Seconds and standard output of a Python process."""
    environment = {"TF_CPP_MIN_LOG_LEVEL": "2", **os.environ, "PYTHONPATH": str(ROOT)}
    start = time.perf_counter()
    result = subprocess.run(
        [sys.executable, *arguments], cwd=directory, env=environment, capture_output=True, text=True
    )
    seconds = time.perf_counter() - start
    if result.returncode != 0:
        sys.exit(f"{' '.join(arguments)} ended with exit code {result.returncode}:\n{result.stderr}")
    return seconds, result.stdout


def _ratios(first: list[float], second: list[float]) -> str:
    ratios = [one / other for one, other in zip(first, second, strict=True)]
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f}–{max(ratios):.2f})"


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _log(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
