"""How near a training step comes to the machine's matrix products: `python tests/benchmarks/step_share.py`.

Steps of GAP on small_fcn, 128 images of 28×28 px that are there already; the same of its convolutions alone, without
batch norm and ReLU, which is what a step could reach if all else cost nothing; and the matrix products of
`matmul_rate.py`. All in this process, in turn. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

sys.path.append(str(Path(__file__).parent))
from compare_speed import PASSES, log, median_and_range, row

from pipeline.cli.terminal import import_tensorflow
from pipeline.heads.global_pools import GlobalAveragePool
from pipeline.models.backbones.small import SmallFcn

SHAPE, BATCH, CLASSES = (28, 28, 1), 128, 10
STEPS = 30


def main() -> None:
    """Measures in turn and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7, help="turns of each (default: %(default)s)")
    rounds = parser.parse_args().rounds
    import_tensorflow()
    import keras
    import tensorflow as tf
    from matmul_rate import SIDE

    from pipeline.models.build import build_model
    from pipeline.models.cost import measure_cost
    from pipeline.models.fused import fused_adam, fused_batch_norm

    model = build_model(SmallFcn(), GlobalAveragePool(), SHAPE, CLASSES, seed=0)
    flops = PASSES * BATCH * measure_cost(model, SHAPE).flops
    layers = [keras.Input(SHAPE, dtype="uint8"), keras.layers.Rescaling(1 / 255)]
    for filters, stride in zip(SmallFcn().filters, SmallFcn().strides, strict=True):
        layers.append(keras.layers.Conv2D(filters, 3, strides=stride, padding="same", use_bias=False))
    layers += [keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(CLASSES)]
    matrix = tf.random.normal((SIDE, SIDE))
    with fused_batch_norm(), fused_adam():
        works = {"step": _step(model), "convolutions alone": _step(keras.Sequential(layers))}
        for work in works.values():
            work()
    seconds: dict[str, list[float]] = {name: [] for name in (*works, "product")}
    works["product"] = lambda: tf.linalg.matmul(matrix, matrix).numpy()
    for turn in range(rounds):
        for name, work in works.items():
            seconds[name].append(_seconds(work))
        log(f"round {turn + 1}/{rounds}: " + ", ".join(f"{name} {of[-1] * 1e3:.1f} ms" for name, of in seconds.items()))
    print(row(["", "ms", "share of the rate of products"]))
    print(row(["---", "---:", "---:"]))
    for name in ("step", "convolutions alone"):
        shares = [
            (flops / spent) / (2 * SIDE**3 / product)
            for spent, product in zip(seconds[name], seconds["product"], strict=True)
        ]
        print(row([name, f"{statistics.median(seconds[name]) * 1e3:.1f}", median_and_range(shares)]))


def _step(model: Any) -> Callable[[], Any]:
    """A training step of the model, on the same random images each time."""
    import keras
    import tensorflow as tf

    model.compile(keras.optimizers.Adam(1e-3), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.optimizer.build(model.trainable_variables)
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (BATCH, *SHAPE), np.uint8)
    batches = tf.data.Dataset.from_tensors((images, generator.integers(0, CLASSES, BATCH))).repeat()
    iterator = iter(batches)
    model.make_train_function()
    return lambda: model.train_function(iterator)


def _seconds(work: Callable[[], Any]) -> float:
    """Of one call, the mean of STEPS."""
    began = time.perf_counter()
    for _ in range(STEPS):
        work()
    return (time.perf_counter() - began) / STEPS


if __name__ == "__main__":
    main()
