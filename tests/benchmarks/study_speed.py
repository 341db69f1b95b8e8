"""A study of nine runs, against the habit of one process a run: the bare script, or PyTorch Lightning with Hydra.

    python tests/benchmarks/study_speed.py --rounds 5
    python tests/benchmarks/study_speed.py --rounds 5 --torch PYTHON

Three heads × three seeds on Fashion-MNIST, one epoch of 12,800 images in batches of 128 each, tested on all 10,000 test
images. In each round every side runs once, in an order that turns from round to round; the ratios are taken within a
round. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

sys.path.append(str(Path(__file__).parent))
from compare_speed import LIKE_THE_SCRIPT, SCRIPT, log, median_and_range, row, run_process

LIGHTNING = Path(__file__).parent / "lightning_hydra" / "train.py"
SEEDS = range(3)
HEADS = ("flatten_dense", "average_pool", "global_average_pool")
LOADED = 14_222
"""Training images of which 90 % are 12,800."""
SPLIT = f"train[:{LOADED}]"


def study(*overrides: str) -> float:
    """Seconds of the program's study."""
    with tempfile.TemporaryDirectory() as directory:
        seconds, _ = run_process(
            directory,
            *("-m", "pipeline.train", "study=heads", "dataset=fashion_mnist", f"dataset.train_split='{SPLIT}'"),
            *(f"seed={','.join(map(str, SEEDS))}", "training.epochs=1", "training.batch_size=128"),
            *(*LIKE_THE_SCRIPT, "size_probe.sizes=[28]", f"output_dir={directory}", *overrides),
        )
    return seconds


def script_in_a_loop() -> float:
    """Seconds of nine calls of the bare Keras script; it knows one head only, so nine times that."""
    with tempfile.TemporaryDirectory() as directory:
        return sum(
            run_process(directory, str(SCRIPT), "fashion_mnist", "1", "128", SPLIT)[0] for _ in HEADS for _ in SEEDS
        )


def lightning_in_a_loop(python: str) -> float:
    """Seconds of nine calls of the script that puts PyTorch Lightning and Hydra together."""
    with tempfile.TemporaryDirectory() as directory:
        return sum(
            run_process(
                *(directory, str(LIGHTNING), f"head={head}", f"seed={seed}", f"images={LOADED}"),
                f"output_dir={directory}/{head}-{seed}",
                python=python,
            )[0]
            for head in HEADS
            for seed in SEEDS
        )


def main() -> None:
    """Compares, then prints the table on standard output; progress goes to standard error."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5, help="runs of each side (default: %(default)s)")
    parser.add_argument("--torch", metavar="PYTHON", help="interpreter with lightning_hydra/requirements.txt")
    arguments = parser.parse_args()
    if arguments.rounds < 1:
        parser.error(f"--rounds {arguments.rounds}: must be at least 1")
    ours: dict[str, Callable[[], float]] = {
        "study": study,
        "study, launch=parallel": lambda: study("launch=parallel"),
    }
    others: dict[str, Callable[[], float]] = {"script in a loop": script_in_a_loop}
    if arguments.torch:
        others["Lightning in a loop"] = lambda: lightning_in_a_loop(arguments.torch)
    sides = ours | others
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(arguments.rounds):
        names = list(sides)
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            seconds[name].append(sides[name]())
            log(f"round {turn + 1}/{arguments.rounds} {name}: {seconds[name][-1]:.1f} s")
    print(
        "\n".join(
            [row(["", "wall time s", *(f"÷ {name}" for name in others)]), row(["---"] + ["---:"] * (1 + len(others)))]
        )
    )
    for name, spent in seconds.items():
        ratios = [
            median_and_range([one / other for one, other in zip(spent, seconds[against], strict=True)])
            for against in others
        ]
        print(row([name, f"{statistics.median(spent):.1f}", *(ratios if name in ours else ["" for _ in others])]))


if __name__ == "__main__":
    main()
