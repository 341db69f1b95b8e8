"""What augmenting the training images costs: `python tests/benchmarks/augmentation_speed.py`.

Steps of GAP on small_fcn, 128 images of Fashion-MNIST, 28×28 px, as the program trains: on images as they are, moved,
moved and more, and by RandAugment. All in this process, in turn; its CPU time is told too, which other work on
the machine changes less. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parent))
from compare_speed import log, median_and_range, row

from pipeline.cli.terminal import import_tensorflow
from pipeline.data.settings import Dataset
from pipeline.heads.global_pools import GlobalAveragePool
from pipeline.models.backbones.small import SmallFcn
from pipeline.training.settings import Augmentation, Training

MOVED: dict[str, Any] = {"flip": True, "translate": 0.1, "rotate": 10, "zoom": 0.1}
WORKS = {
    "as they are": Augmentation(),
    "flipped, shifted, turned, zoomed": Augmentation(**MOVED),
    "and erased, mixed, pasted": Augmentation(**MOVED, erase=0.25, mixup=0.2, cutmix=1.0),
    "two operations of RandAugment": Augmentation(operations=2),
}
STEPS = 60


def main() -> None:
    """Measures in turn and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7, help="turns of each (default: %(default)s)")
    parser.add_argument("--dataset", default="fashion_mnist", help="name in TFDS (default: %(default)s)")
    arguments = parser.parse_args()
    import_tensorflow()
    from pipeline.data import source
    from pipeline.models.fused import fused_adam, fused_batch_norm

    with tempfile.TemporaryDirectory() as directory:
        data = source.load(Dataset(name=arguments.dataset), 0, Path(directory))
        with fused_batch_norm(), fused_adam():
            works = {
                name: _step(data, Training(epochs=1000, augmentation=augmentation))
                for name, augmentation in WORKS.items()
            }
            for work in works.values():
                work()
        seconds: dict[str, list[float]] = {name: [] for name in works}
        computed: dict[str, list[float]] = {name: [] for name in works}
        for turn in range(arguments.rounds):
            for name, work in works.items():
                began, computed_before = time.perf_counter(), time.process_time()
                for _ in range(STEPS):
                    work()
                seconds[name].append(time.perf_counter() - began)
                computed[name].append(time.process_time() - computed_before)
            log(f"round {turn + 1}/{arguments.rounds}")
    print(row(["images", "images/s", "÷ as they are", "÷ as they are, by CPU time"]))
    print(row(["---", "---:", "---:", "---:"]))
    for name in works:
        images = Training().batch_size * STEPS / statistics.median(seconds[name])
        print(row([name, f"{images:,.0f}", *(_ratios(spent, name) for spent in (seconds, computed))]))


def _ratios(spent: dict[str, list[float]], name: str) -> str:
    """Speeds with an augmentation as shares of those without, round by round."""
    plain, *_ = spent.values()
    return median_and_range([without / each for without, each in zip(plain, spent[name], strict=True)])


def _step(data: Any, training: Training) -> Callable[[], Any]:
    """A step of a training, on its next batch."""
    import keras

    from pipeline.models.build import build_model
    from pipeline.training.batches import train_batches
    from pipeline.training.fit import build_optimizer
    from pipeline.training.step_sizes import steps_per_epoch

    model = build_model(SmallFcn(), GlobalAveragePool(), data.facts.image_shape, data.facts.classes, seed=0)
    loss = keras.losses.SparseCategoricalCrossentropy
    if training.has_soft_labels:
        loss = keras.losses.CategoricalCrossentropy
    steps = training.epochs * steps_per_epoch(data, training)
    model.compile(build_optimizer(training, steps), loss(from_logits=True))
    model.optimizer.build(model.trainable_variables)
    model.make_train_function()
    batches = iter(train_batches(data, training))
    return lambda: model.train_function(batches)


if __name__ == "__main__":
    main()
