"""How time grows with images and pixels, and memory not at all: `python tests/benchmarks/scaling.py`.

Trains GAP on small_fcn with Fashion-MNIST: on 1, 2 and 4 times as many images of 28×28 px, and on images resized to 28,
56 and 112 px; prints seconds of an epoch and the exponent that fits them, 1 being linear. Then streams
(`dataset.cache=none`) more than four times as many bytes of images as the process may allocate, and prints the most
memory that was resident, beside that of the same command with a hundredth of the images.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import mlflow
import numpy as np
import psutil

sys.path.append(str(Path(__file__).parent))
from compare_speed import LIKE_THE_SCRIPT, PROGRAM, ROOT, log, median_and_range, row, run_process

IMAGES = (12_000, 24_000, 48_000)
SIDES = (28, 56, 112)
IMAGES_OF_SIDES = 3_000
COMMON = (*PROGRAM, "head=global_average_pool", "dataset=fashion_mnist", "training.epochs=2", *LIKE_THE_SCRIPT)

STREAMED_SIDE = 380
STREAMED_IMAGES = 60_000
LIMIT = 2_000_000_000
"""Bytes that the streaming process may allocate (RLIMIT_DATA). It streams 380 · 380 · 60,000 bytes, 4.3 times that."""


def epoch_seconds(images: int, side: int) -> float:
    """Seconds of a training epoch, the second one."""
    with tempfile.TemporaryDirectory() as directory:
        run_process(
            directory,
            *(*COMMON, f"dataset.train_split='train[:{images}]'", f"dataset.image_size=[{side},{side}]"),
            *("dataset.validation_fraction=0", "training.keep_weights=last", "dataset.test_split='test[:1%]'"),
            *(f"size_probe.sizes=[{side}]", f"output_dir={directory}"),
        )
        mlflow.set_tracking_uri(f"sqlite:///{directory}/mlflow.db")
        run = mlflow.search_runs(search_all_experiments=True).iloc[0]
    return float(images / run["metrics.train/images_per_second"])


def most_resident(images: int) -> int:
    """Bytes that were resident at most while a process streamed so many images, under LIMIT."""
    with tempfile.TemporaryDirectory() as directory:
        process = subprocess.Popen(
            [
                *(sys.executable, *COMMON, "dataset.cache=none", "training.epochs=1"),
                *(f"dataset.train_split='train[:{images}]'", "dataset.test_split='test[:1%]'"),
                # A network of little work, so that it is the stream that takes the time.
                *("backbone.filters=[16]", "backbone.strides=[8]", "dataset.shuffle_buffer=1000"),
                *(f"dataset.image_size=[{STREAMED_SIDE},{STREAMED_SIDE}]", "training.batch_size=32"),
                *(f"size_probe.sizes=[{STREAMED_SIDE}]", f"output_dir={directory}"),
            ],
            cwd=directory,
            stdout=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_DATA, (LIMIT, LIMIT)),
        )
        most = [0]
        watch = threading.Thread(target=_watch, args=(psutil.Process(process.pid), most))
        watch.start()
        if process.wait() != 0:
            sys.exit(f"streaming {images:,} images ended with exit code {process.returncode}")
        watch.join()
    return most[0]


def _watch(process: psutil.Process, most: list[int]) -> None:
    while True:
        try:
            most[0] = max(most[0], process.memory_info().rss)
        except psutil.Error:
            return
        if process.status() == psutil.STATUS_ZOMBIE:
            return
        time.sleep(0.05)


def scaling(title: str, counts: list[int], settings: list[tuple[int, int]], rounds: int) -> str:
    """Row of the table: medians over the rounds, and the exponent of each round's fit."""
    seconds = np.array([[epoch_seconds(*setting) for setting in settings] for _ in range(rounds)])
    exponents = [float(np.polyfit(np.log(counts), np.log(spent), 1)[0]) for spent in seconds]
    log(f"{title}: {np.round(seconds, 2).tolist()}")
    medians = " / ".join(f"{statistics.median(column):.1f}" for column in seconds.T)
    return row([title, medians, median_and_range(exponents)])


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5, help="trainings at each point (default: %(default)s)")
    arguments = parser.parse_args()
    print(row(["", "seconds of an epoch", "exponent"]))
    print(row(["---", "---", "---:"]))
    title = f"images: {' / '.join(f'{count:,}' for count in IMAGES)}, 28×28 px"
    print(scaling(title, list(IMAGES), [(count, 28) for count in IMAGES], arguments.rounds))
    title = f"pixels: {' / '.join(f'{side}×{side}' for side in SIDES)}, {IMAGES_OF_SIDES:,} images"
    pixels = [side * side for side in SIDES]
    print(scaling(title, pixels, [(IMAGES_OF_SIDES, side) for side in SIDES], arguments.rounds))
    print()
    print(row(["images streamed", "their bytes", "process may allocate", "resident at most"]))
    print(row(["---:"] * 4))
    for images in (STREAMED_IMAGES // 100, STREAMED_IMAGES):
        size = images * STREAMED_SIDE**2
        print(row([f"{images:,}", *(f"{amount / 1e9:.2f} GB" for amount in (size, LIMIT, most_resident(images)))]))


if __name__ == "__main__":
    main()
