"""The program against a script in Keras or PyTorch, or against itself: deterministic, or without its guards.

    python tests/benchmarks/compare_speed.py --pairs 5
    python tests/benchmarks/compare_speed.py --pairs 5 --dataset fashion_mnist --probe
    python tests/benchmarks/compare_speed.py --pairs 5 --dataset fashion_mnist --whole
    python tests/benchmarks/compare_speed.py --pairs 5 --dataset fashion_mnist --torch PYTHON
    python tests/benchmarks/compare_speed.py --pairs 5 --deterministic
    python tests/benchmarks/compare_speed.py --pairs 5 --guards

Machines are noisy and change their speed within minutes, so the two sides run in pairs, one right after the other,
taking turns in going first, and what counts is the ratio within a pair. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import math
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
TORCH_SCRIPT = Path(__file__).with_name("bare_torch.py")
MATMUL_RATE = Path(__file__).with_name("matmul_rate.py")
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
        matmul_share: Floating-point operations of the training a second, as a share of those of matrix products.
    """

    images_per_second: float
    wall_seconds: float
    test_accuracy: float
    matmul_share: float = math.nan


@dataclass(frozen=True)
class Side:
    """One of the two that are compared: a name for the table, and how to run it."""

    name: str
    run: Callable[[Work], Measured]


LIKE_THE_SCRIPT = ("tracking.log_model=false",)
"""And only the training size is probed: the script neither probes nor saves. Neither changes the images per second."""


def run_program(
    work: Work, *overrides: str, program: tuple[str, ...] = PROGRAM, whole: bool = False, matmul: bool = False
) -> Measured:
    """Runs one training of the program and reads its record back.

    Args:
        work: What to train.
        overrides: Further settings.
        program: What to start.
        whole: With the probe of all sizes and with the model, as the program comes.
        matmul: Measure the rate of matrix products right after it.
    """
    if not whole:
        overrides = (*LIKE_THE_SCRIPT, f"size_probe.sizes=[{work.side}]", *overrides)
    with tempfile.TemporaryDirectory() as directory:
        seconds, _ = run_process(
            directory,
            *program,
            "head=global_average_pool",
            f"dataset={work.dataset}",
            f"training.epochs={work.epochs}",
            f"training.batch_size={work.batch_size}",
            f"output_dir={directory}",
            *overrides,
        )
        mlflow.set_tracking_uri(f"sqlite:///{directory}/mlflow.db")
        run = mlflow.search_runs(search_all_experiments=True).iloc[0]
        speed = run["metrics.train/images_per_second"]
        share = speed * run["metrics.cost/flops"] * PASSES / _matmul_rate(directory) if matmul else math.nan
        return Measured(speed, seconds, run["metrics.test/accuracy"], share)


PASSES = 3
"""Forward passes that a training step is worth: its own, and twice as much for the gradients of maps and of weights."""


def _matmul_rate(directory: str) -> float:
    _, output = run_process(directory, str(MATMUL_RATE))
    return float(json.loads(output.splitlines()[-1])["flops_per_second"])


def run_script(work: Work) -> Measured:
    """Runs the hand-written Keras script and reads its line of JSON."""
    return _run_script(str(SCRIPT), work.dataset, str(work.epochs), str(work.batch_size))


def run_torch(work: Work, python: str) -> Measured:
    """The same in PyTorch, with another interpreter."""
    return _run_script(str(TORCH_SCRIPT), str(work.epochs), str(work.batch_size), python=python)


def _run_script(*arguments: str, python: str = sys.executable) -> Measured:
    with tempfile.TemporaryDirectory() as directory:
        seconds, output = run_process(directory, *arguments, python=python)
    result = json.loads(output.splitlines()[-1])
    return Measured(result["images_per_second"], seconds, result["test_accuracy"])


def compare(work: Work, first: Side, second: Side, pairs: int) -> str:
    """Runs both sides `pairs` times in turn; returns their row of the table."""
    log(f"{work.dataset}: warming up")
    # Prepares the dataset, writes byte code and fills the page cache, which only the very first runs would pay for.
    for side in (first, second):
        side.run(Work(work.dataset, 1, work.batch_size, work.side))
    results: dict[Side, list[Measured]] = {first: [], second: []}
    for pair in range(pairs):
        for side in (first, second) if pair % 2 == 0 else (second, first):
            measured = side.run(work)
            results[side].append(measured)
            log(
                f"{work.dataset} {pair + 1}/{pairs} {side.name}: {measured.images_per_second:,.0f} images/s, "
                f"{measured.wall_seconds:.1f} s, test accuracy {measured.test_accuracy:.4f}"
            )
    shares = [measured.matmul_share for measured in results[first] if not math.isnan(measured.matmul_share)]
    if shares:
        log(f"{work.dataset} {first.name}: share of the rate of matrix products {median_and_range(shares)}")
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
    return row(cells)


def header(first: Side, second: Side) -> str:
    """The head of the table that `compare` makes rows of."""
    ratio = f"{first.name} / {second.name}"
    titles = ["dataset"]
    for quantity in ("images/s", "wall time s"):
        titles += [f"{quantity}, {first.name}", f"{quantity}, {second.name}", f"{quantity}, {ratio}"]
    titles += [f"test accuracy, {side.name}" for side in (first, second)]
    return "\n".join([row(titles), row(["---"] + ["---:"] * (len(titles) - 1))])


def main() -> None:
    """Compares, then prints the table on standard output; progress goes to standard error."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=5, help="runs of each side (default: %(default)s)")
    parser.add_argument("--dataset", nargs="+", choices=WORK, default=list(WORK), help="default: all")
    extent = parser.add_mutually_exclusive_group()
    extent.add_argument("--probe", action="store_true", help="the program as it comes, but for size_probe.ways=[]")
    extent.add_argument("--whole", action="store_true", help="the program as it comes")
    against = parser.add_mutually_exclusive_group()
    against.add_argument(
        "--guards", action="store_true", help="compare the program to itself without what makes it resumable instead"
    )
    against.add_argument(
        "--torch",
        metavar="PYTHON",
        help="compare to bare_torch.py, run by this interpreter, and to matrix products (fashion_mnist only)",
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
    elif arguments.torch:
        if arguments.dataset != ["fashion_mnist"]:
            parser.error("--torch PYTHON: bare_torch.py reads Fashion-MNIST only; add --dataset fashion_mnist")
        first = Side("program", lambda work: run_program(work, matmul=True))
        second = Side("PyTorch", lambda work: run_torch(work, arguments.torch))
    else:
        settings = ("size_probe.ways=[]",) if arguments.probe else ()
        first = Side("program", lambda work: run_program(work, *settings, whole=arguments.probe or arguments.whole))
        second = Side("script", run_script)

    rows = [compare(WORK[dataset], first, second, arguments.pairs) for dataset in arguments.dataset]
    print("\n".join([header(first, second), *rows]))
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("tensorflow", "keras"))
    print(
        f"\nPairs: {arguments.pairs}. Figures are medians; ratios are within each pair: median (min–max). "
        f"{os.cpu_count()} CPUs, {versions}. "
        + (
            "The program probes all its sizes and records the model"
            + (" (size_probe.ways=[])." if arguments.probe else ".")
            if arguments.probe or arguments.whole
            else "The program probes one image size and records no model "
            "(size_probe.sizes=[training size] tracking.log_model=false)."
        )
    )


def run_process(directory: str, *arguments: str, python: str = sys.executable) -> tuple[float, str]:
    """Seconds and standard output of a Python process."""
    environment = {"TF_CPP_MIN_LOG_LEVEL": "2", **os.environ, "PYTHONPATH": str(ROOT)}
    start = time.perf_counter()
    result = subprocess.run([python, *arguments], cwd=directory, env=environment, capture_output=True, text=True)
    seconds = time.perf_counter() - start
    if result.returncode != 0:
        sys.exit(f"{' '.join(arguments)} ended with exit code {result.returncode}:\n{result.stderr}")
    return seconds, result.stdout


def _ratios(first: list[float], second: list[float]) -> str:
    return median_and_range([one / other for one, other in zip(first, second, strict=True)])


def median_and_range(values: list[float]) -> str:
    """As in `1.05 (0.98–1.10)`."""
    return f"{statistics.median(values):.2f} ({min(values):.2f}–{max(values):.2f})"


def row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def log(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
