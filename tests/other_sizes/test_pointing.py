"""Whether the peak of a class lies on the image, by hand and in the probe."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from pipeline.data import source
from pipeline.data.settings import Dataset
from pipeline.heads.base import Head
from pipeline.heads.global_pools import GlobalAveragePool, GlobalMaxPool
from pipeline.models.backbones.small import SmallFcn
from pipeline.models.build import build_model
from pipeline.models.class_activation import class_activations
from pipeline.models.predict import predict
from pipeline.other_sizes import pointing
from pipeline.other_sizes.measure import measure_sizes
from pipeline.other_sizes.modes import canvas_places, lay_on_canvas
from pipeline.other_sizes.plan import SizePlan
from pipeline.other_sizes.pointing import Pointing
from pipeline.other_sizes.settings import SizeProbe


def test_a_peak_is_a_hit_where_the_middle_of_its_cell_lies_on_the_image(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cells of 2×2 px: their middles are at 1, 3, 5 and 7 px of the canvas. Class 1 speaks against the only channel."""
    head = GlobalAveragePool().build((4, 4, 1), 2)
    head.set_weights([np.array([[1, -1]]), np.array([0, 9])])
    maps = np.zeros((5, 4, 4, 1), np.float32)
    maps[[0, 1, 2, 4], 2, 1] = 1  # Rows 4–5 and columns 2–3, middle (5, 3).
    maps[3] = 1
    maps[3, 2, 1] = -1  # Where class 1 has its peak.
    labels = np.array([0, 0, 0, 1, 0])
    # Images of 3×2 px. Of the first three: rows 3–5, 2–4 and 3–5, columns 2–3, 2–3 and 4–5.
    places = np.array([3, 2, 3, 5, 0]), np.array([2, 2, 4, 3, 0])

    def share(*batches: slice) -> float:
        looking = Pointing(class_activations(head), labels, places, (3, 2), (8, 8))
        for batch in batches:
            looking.add(tf.constant(maps[batch]))
        return looking.share

    assert share(slice(0, 1)) == 1  # 3 ≤ 5 < 6 and 2 ≤ 3 < 4
    assert share(slice(0, 2)) == 1 / 2  # Not 5 < 5.
    assert share(slice(0, 3)) == 1 / 3  # Not 4 ≤ 3.
    assert share(slice(0, 3), slice(3, 5)) == 2 / 5  # 5 ≤ 5 < 8 and 3 ≤ 3 < 5; not 5 < 3.
    monkeypatch.setattr(pointing, "MOST_IMAGES", 4)
    assert share(slice(0, 3), slice(3, 5), slice(0, 0)) == 2 / 4


@pytest.mark.long
@pytest.mark.parametrize(
    "head", [GlobalAveragePool(), pytest.param(GlobalMaxPool(), marks=pytest.mark.slow)], ids=lambda head: head.name
)
def test_the_probe_points_at_larger_sizes_alone(head: Head, tmp_path: Path) -> None:
    data = source.load(Dataset(name="digits", version="1.0.0"), 0, tmp_path)
    backbone, probe = SmallFcn(filters=[4, 4], strides=[2, 2]), SizeProbe(sizes=[4, 8, 16], max_images=30, ways=[])
    model = build_model(backbone, head, (8, 8, 1), 10, seed=0)
    logits, labels = predict(model, data.test(360))
    probe.batch_size = 40  # Of 16 px, 10 to a batch.
    small, native, large = measure_sizes(model, SizePlan(backbone, head, data.facts), probe, data, logits, labels)
    assert math.isnan(small.pointing)
    assert math.isnan(native.pointing)
    if not head.is_linear:
        assert math.isnan(large.pointing)
        return
    ((images, _),) = data.test(30, limit=30).as_numpy_iterator()
    tops, lefts = (at[:30] for at in canvas_places(360, (8, 8), (16, 16), probe.seed))
    maps = model.get_layer("backbone")(lay_on_canvas(images, (16, 16), tops, lefts)).numpy()
    kernel = model.get_weights()[-2]
    hits = 0
    for feature_map, label, top, left in zip(maps, labels, tops, lefts, strict=False):
        row, column = divmod(int((feature_map @ kernel[:, label]).argmax()), 4)
        hits += bool(top <= 4 * row + 2 < top + 8 and left <= 4 * column + 2 < left + 8)
    assert large.pointing == hits / 30
    assert 0 < hits < 30
