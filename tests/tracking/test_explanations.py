"""The pictures of what a model ignores, and of what its cells give."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.collections import PatchCollection

from pipeline.common.names import File
from pipeline.common.size import Size
from pipeline.data import source
from pipeline.data.batches import Data
from pipeline.data.settings import Dataset
from pipeline.heads.average import AveragePool
from pipeline.heads.base import Head
from pipeline.heads.global_pools import GlobalMaxPool
from pipeline.heads.verdict import Verdict
from pipeline.models.backbones.small import SmallFcn
from pipeline.models.build import build_model
from pipeline.models.predict import predict
from pipeline.other_sizes.measure import MeasuredSize, measure_sizes
from pipeline.other_sizes.plan import SizePlan
from pipeline.other_sizes.settings import SizeProbe
from pipeline.tracking.explanations import EXAMPLES, activation_figure, cropped, examples, ignored_figure
from pipeline.tracking.run_page import draw


def _measured(size: Size, seen: np.ndarray | None, verdict: Verdict) -> MeasuredSize:
    share = 0.0 if seen is None else float(seen.mean())
    return MeasuredSize(size, (2, 2), verdict, share, share, "", seen=seen)


def test_what_is_hatched_is_what_is_not_seen() -> None:
    corner, lattice = np.zeros((4, 6), bool), np.ones((4, 6), bool)
    corner[:3, :4] = True
    lattice[1::2] = lattice[:, 1::2] = False
    sizes = [
        _measured((4, 6), corner, Verdict.CROPS),
        _measured((4, 6), np.ones((4, 6), bool), Verdict.CROPS),  # Of the map alone.
        _measured((4, 6), np.ones((4, 6), bool), Verdict.ADAPTS),
        _measured((4, 6), lattice, Verdict.ADAPTS),
        _measured((4, 6), None, Verdict.REFUSES),
    ]
    shown = cropped(sizes)
    assert shown == [sizes[0], sizes[1], sizes[3]]
    figure = ignored_figure(np.zeros((2, 3, 1), np.uint8), shown)
    assert len(figure.axes) == 3
    for axis, result in zip(figure.axes, shown, strict=True):
        (hatched,) = axis.collections
        assert isinstance(hatched, PatchCollection)
        assert hatched.get_hatch() == "////"
        covered = np.zeros((4, 6), int)
        for path in hatched.get_paths():
            (left, top), (right, below) = path.get_extents().get_points().astype(int)
            covered[top:below, left:right] += 1
        assert result.seen is not None
        assert covered.tolist() == (~result.seen).astype(int).tolist()
    # 12 of 24 pixels; the lattice leaves 2 rows of 3.
    assert [axis.get_title().splitlines()[2] for axis in figure.axes] == [
        "50% of the image ignored",
        "0% of the image ignored",
        "75% of the image ignored",
    ]


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Data:
    return source.load(Dataset(name="digits", version="1.0.0"), 0, tmp_path_factory.mktemp("cache"))


@pytest.mark.long
@pytest.mark.parametrize("head", [AveragePool(), GlobalMaxPool()], ids=lambda head: head.name)
def test_a_run_has_the_pictures_that_its_head_allows(digits: Data, head: Head) -> None:
    """Strides 2 and 2: of 12 px a map of 3×3 cells, of which the window of training, 2×2, sees 4."""
    backbone = SmallFcn(filters=[4, 4], strides=[2, 2])
    plan, probe = SizePlan(backbone, head, digits.facts), SizeProbe(sizes=[8, 12], max_images=20, ways=[])
    model = build_model(backbone, head, (8, 8, 1), 10, seed=0)
    logits, labels = predict(model, digits.test(360))
    measured = measure_sizes(model, plan, probe, digits, logits, labels)
    for result in measured:
        assert result.seen is not None
        assert result.seen.shape == result.size
        assert result.seen.mean() == result.seen_pixels
    figures = draw(model, head, digits, logits, labels, measured)
    always = {File.SIZE_FIGURE, File.CONFUSION_FIGURE, File.MISTAKES_FIGURE}
    if isinstance(head, AveragePool):
        assert set(figures) == always | {File.IGNORED_FIGURE, File.ACTIVATION_FIGURE}
        assert len(figures[File.IGNORED_FIGURE].axes) == 1
        (axis,) = figures[File.ACTIVATION_FIGURE].axes
        assert len(axis.texts) == 2 * EXAMPLES
        assert len(axis.images) == 2 * 2 * EXAMPLES  # Each with its map.
    else:
        assert set(figures) == always


@pytest.mark.long
def test_an_image_lies_under_what_its_cells_give(digits: Data) -> None:
    head = AveragePool()
    model = build_model(SmallFcn(filters=[4, 4], strides=[2, 2]), head, (8, 8, 1), 10, seed=0)
    images = [
        image for images, _ in digits.test_split.in_order(np.arange(3), 3).as_numpy_iterator() for image in images
    ]
    logits = model(np.stack(images)).numpy()
    figure = activation_figure(model, images, logits, digits.test_split.labels[:3], digits.facts.class_names)
    shown = figure.axes[0].images
    assert [image.get_extent() for image in shown[:3]] == [image.get_extent() for image in shown[3:]]
    bias = model.get_weights()[-1]
    for image, of_one in zip(shown[3:], logits, strict=True):
        given = np.asarray(image.get_array())
        assert given.shape == (2, 2)
        assert given.sum() + bias[of_one.argmax()] == pytest.approx(of_one.max(), abs=1e-5)
        low, high = image.get_clim()
        assert low == -high == -np.abs(given).max()


def test_the_examples_are_the_same_for_every_head() -> None:
    assert examples(360).tolist() == examples(360).tolist() == sorted(set(examples(360).tolist()))
    assert (len(examples(360)), examples(2).tolist()) == (EXAMPLES, [0, 1])
