"""Six heads on a frozen backbone: with kept feature maps, without, and as a careful script.

    python tests/benchmarks/frozen_study.py MODEL.keras --seeds 2 --rounds 3

MODEL.keras is what the program recorded for `small_fcn` trained on Fashion-MNIST. Each side trains six heads with each
seed, five epochs on all of Fashion-MNIST or a slice, and tests them at eight sizes in two modes. In each round every
side runs once, from an empty `output_dir`, in an order that turns; ratios are taken within a round. `--uncached-seeds`
lets the slow side run fewer seeds; its time is then scaled to all of them. Prints a Markdown table. Peak memory is what
is resident at most, pages of mapped files among it; disk is what is kept of feature maps.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

sys.path.append(str(Path(__file__).parent))
from compare_speed import log, median_and_range, row, run_process

SCRIPT = Path(__file__).parent / "careful_frozen.py"
HEADS = (
    *("flatten_dense", "average_pool", "global_average_pool"),
    *("global_max_pool", "average_max_pool", "conv_pool"),
)
SIZES = (14, 21, 24, 28, 35, 42, 49, 56)


def program(model: Path, split: str, epochs: int, seeds: int, *overrides: str) -> tuple[float, int]:
    """Seconds of the program's study, and bytes of its feature maps."""
    with tempfile.TemporaryDirectory() as directory:
        seconds, _ = run_process(
            directory,
            *("-m", "pipeline.train", "--multirun", "dataset=fashion_mnist", f"dataset.train_split='{split}'"),
            *("backbone=from_model", f"backbone.path={model}", "backbone.trainable=false"),
            *(f"head={','.join(HEADS)}", f"seed={','.join(map(str, range(seeds)))}", f"training.epochs={epochs}"),
            *(f"size_probe.sizes=[{','.join(map(str, SIZES))}]", "size_probe.ways=[]", "tracking.log_model=false"),
            *(f"output_dir={directory}", *overrides),
        )
        kept = sum(file.stat().st_size for file in (Path(directory) / "cache").glob("features/*/*"))
    return seconds, kept


def script(model: Path, split: str, epochs: int, seeds: int) -> tuple[float, int]:
    """Seconds of the careful script."""
    with tempfile.TemporaryDirectory() as directory:
        arguments = (str(epochs), str(seeds), ",".join(map(str, SIZES)), ",".join(HEADS))
        seconds, output = run_process(directory, str(SCRIPT), str(model), split, *arguments)
        log(
            output
            if len(output) < 500
            else json.dumps({name: found["test"] for name, found in json.loads(output).items()})
        )
    return seconds, 0


def with_peak(side: Callable[[], tuple[float, int]]) -> tuple[float, int, int]:
    """What a side gives, and bytes resident at most in one of its processes; for a process that ran nothing else."""
    return *side(), resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024


def main() -> None:
    """Compares, then prints the table on standard output; progress goes to standard error."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, help="a model that the program recorded")
    parser.add_argument("--split", default="train", help="training split (default: %(default)s)")
    parser.add_argument("--epochs", type=int, default=5, help="(default: %(default)s)")
    parser.add_argument("--seeds", type=int, default=10, help="(default: %(default)s)")
    parser.add_argument("--uncached-seeds", type=int, help="seeds of the side without kept maps (default: all)")
    parser.add_argument("--rounds", type=int, default=1, help="(default: %(default)s)")
    arguments = parser.parse_args()
    model, split, epochs, seeds = arguments.model.absolute(), arguments.split, arguments.epochs, arguments.seeds
    fewer = arguments.uncached_seeds or seeds
    sides: dict[str, Callable[[], tuple[float, int]]] = {
        "kept maps": partial(program, model, split, epochs, seeds),
        "backbone in each step": partial(program, model, split, epochs, fewer, "backbone.feature_cache=none"),
        "careful script": partial(script, model, split, epochs, seeds),
    }
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    peaks, disk = dict.fromkeys(sides, 0), dict.fromkeys(sides, 0)
    for turn in range(arguments.rounds):
        names = list(sides)
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            with ProcessPoolExecutor(1) as fresh:
                took, disk[name], peak = fresh.submit(with_peak, sides[name]).result()
            peaks[name] = max(peaks[name], peak)
            seconds[name].append(took * (seeds / fewer if name == "backbone in each step" else 1))
            log(f"round {turn + 1}/{arguments.rounds} {name}: {seconds[name][-1]:.1f} s")
    heading = ["", "wall time s", "kept maps ÷ it", "peak memory GB", "disk GB"]
    print("\n".join([row(heading), row(["---"] + ["---:"] * 4)]))
    for name, spent in seconds.items():
        ratio = median_and_range([one / other for one, other in zip(seconds["kept maps"], spent, strict=True)])
        sizes = (f"{size[name] / 1e9:.2f}" for size in (peaks, disk))
        print(row([name, f"{statistics.median(spent):.1f}", ratio, *sizes]))


if __name__ == "__main__":
    main()
