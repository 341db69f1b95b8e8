"""The probe of image sizes against Keras's `predict` on the same images: `python tests/benchmarks/probe_speed.py`.

GAP on small_fcn, untrained, Fashion-MNIST's 10,000 test images at eight sizes, resized and laid on a canvas. The probe
makes these images, rebuilds the head at each size, looks at its gradient, predicts and compares to the labels.
`predict` gets arrays of them that are there already, at the seven sizes for which the probe does not know the answers
from the test. Both run in this process, in turn. With `--ways` the probe also runs the model in every way that its head
allows and that fits no weights again, and `predict` counts once for each of them and once for the model as it is.
Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.append(str(Path(__file__).parent))
from compare_speed import WORK, log, median_and_range, row

from pipeline.cli.terminal import import_tensorflow
from pipeline.common.size import Size
from pipeline.data.settings import Cache, Dataset
from pipeline.heads.global_pools import GlobalAveragePool
from pipeline.models.backbones.small import SmallFcn
from pipeline.other_sizes.settings import SizeProbe

if TYPE_CHECKING:
    from pipeline.data.batches import Data


def main() -> None:
    """Measures in pairs and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=5, help="runs of each side (default: %(default)s)")
    parser.add_argument("--images", type=int, help="test images at each size (default: all)")
    parser.add_argument("--dataset", choices=WORK, default="fashion_mnist", help="default: %(default)s")
    parser.add_argument("--ways", action="store_true", help="also in every way to other sizes")
    arguments = parser.parse_args()
    import_tensorflow()
    from pipeline.data import source
    from pipeline.models.build import build_model
    from pipeline.models.predict import predict
    from pipeline.other_sizes.measure import measure_sizes
    from pipeline.other_sizes.plan import SizePlan

    probe = SizeProbe(ways=None if arguments.ways else [], max_images=arguments.images)
    with tempfile.TemporaryDirectory() as directory:
        data = source.load(Dataset(name=arguments.dataset, cache=Cache.memory), 0, Path(directory))
    backbone, head = SmallFcn(), GlobalAveragePool()
    plan = SizePlan(backbone, head, data.facts)
    model = build_model(backbone, head, data.facts.image_shape, data.facts.classes, seed=0)
    logits, labels = predict(model, data.test(probe.batch_size))
    sizes = [size for size in probe.image_sizes(data.facts.image_size) if size != data.facts.image_size]
    ways: set[str] = set()

    def program() -> float:
        began = time.perf_counter()
        for measured in measure_sizes(model, plan, probe, data, logits, labels):
            ways.update(measured.ways)
        return time.perf_counter() - began

    def script() -> float:
        spent = 0.0
        for size in sizes:
            for images in _images(data, size, probe):
                began = time.perf_counter()
                model.predict(images, batch_size=probe.batch_size, verbose=0)
                spent += time.perf_counter() - began
        return spent

    sides = {"probe": program, "predict": script}
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for pair in range(arguments.pairs):
        for name in sides if pair % 2 == 0 else reversed(sides):
            seconds[name].append(sides[name]())
            log(f"{pair + 1}/{arguments.pairs} {name}: {seconds[name][-1]:.1f} s")
    seconds["predict"] = [spent * (1 + len(ways)) for spent in seconds["predict"]]
    ratios = [one / other for one, other in zip(seconds["probe"], seconds["predict"], strict=True)]
    print(row(["sizes in px", "images at each", "probe s", "predict s", "probe / predict"]))
    print(row(["---"] + ["---:"] * 4))
    medians = [f"{statistics.median(spent):.1f}" for spent in seconds.values()]
    heights = ", ".join(str(height) for height, _ in sizes)
    print(row([heights, f"2 × {arguments.images or len(labels):,}", *medians, median_and_range(ratios)]))


def _images(data: Data, size: Size, probe: SizeProbe) -> list[object]:
    """The test images, resized and on a canvas, as arrays (N, *size, C)."""
    import numpy as np

    from pipeline.data.tf_data import resize
    from pipeline.other_sizes.modes import canvas_places, lay_on_canvas

    batches = [images for images, _ in data.test(1024, probe.max_images).as_numpy_iterator()]
    images = np.concatenate(batches)
    tops, lefts = canvas_places(len(images), data.facts.image_size, size, probe.seed)
    return [np.concatenate([resize(batch, size) for batch in batches]), lay_on_canvas(images, size, tops, lefts)]


if __name__ == "__main__":
    main()
