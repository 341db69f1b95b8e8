"""The probe: its sizes and images, its plan against the rules, and plan against measurement."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from weakref import WeakKeyDictionary

import keras
import numpy as np
import pytest

from pipeline.common.condition import Mode
from pipeline.common.errors import ConfigError, UserError
from pipeline.common.size import Size
from pipeline.data import source
from pipeline.data.batches import Data
from pipeline.data.facts import DatasetFacts
from pipeline.data.settings import Dataset
from pipeline.heads import HEADS
from pipeline.heads.average import AveragePool
from pipeline.heads.base import Head
from pipeline.heads.flatten import FlattenDense
from pipeline.heads.global_pools import GeneralizedMeanPool, GlobalAveragePool, GlobalMaxPool
from pipeline.heads.pointwise import ConvPool
from pipeline.heads.pyramid import SpatialPyramidPool
from pipeline.heads.verdict import Verdict
from pipeline.models.backbones.small import SmallFcn
from pipeline.models.build import build_model
from pipeline.models.predict import predict
from pipeline.models.scores import accuracy
from pipeline.other_sizes import gradient
from pipeline.other_sizes import plan as plan_module
from pipeline.other_sizes.gradient import seen_cells
from pipeline.other_sizes.measure import MeasuredSize, Predictions, check_plan, measure_sizes
from pipeline.other_sizes.modes import canvas_places, lay_on_canvas
from pipeline.other_sizes.plan import ContractError, SizePlan
from pipeline.other_sizes.settings import SizeProbe

FASHION = DatasetFacts("fashion_mnist", "3.0.1", (28, 28, 1), tuple("0123456789"))
EIGHT_SIZES = SizeProbe(sizes=[12, 20, 26, 28, 32, 40, 52, 56])
"""Feature maps with strides 2 and 2: 3, 5, 7, 7, 8, 10, 13, 14 cells a side."""


def test_sizes_follow_scales_or_heights_and_hold_the_native_one() -> None:
    assert SizeProbe(scales=[0.5, 2.0]).image_sizes((28, 28)) == [(14, 14), (28, 28), (56, 56)]
    assert SizeProbe(sizes=[48, 16]).image_sizes((32, 64)) == [(16, 32), (32, 64), (48, 96)]


@pytest.mark.long
def test_sizes_are_told_at_which_the_strides_stop_elsewhere_than_in_training() -> None:
    plan = SizePlan(SmallFcn(), GlobalAveragePool(), FASHION)
    sizes = plan.sizes(EIGHT_SIZES)
    # 2·2 divides all of these but 26, which lies as near to 24 as to 28.
    assert plan.off_stride(sizes, None) == {26: 24}
    assert plan.off_stride(sizes, [28, 30]) == {}  # Remainders 0 and 2.
    assert plan.off_stride(sizes, [29]) == {12: 13, 20: 21, 26: 25, 28: 29, 32: 33, 40: 41, 52: 53, 56: 57}
    assert SizePlan(SmallFcn(strides=[1, 1, 1, 1]), GlobalAveragePool(), FASHION).off_stride(sizes, None) == {}
    whole = SizePlan(SmallFcn(), FlattenDense(), FASHION)
    assert whole.off_stride(whole.sizes(EIGHT_SIZES), None) == {26: 24}  # The others are refused.


def test_canvas_keeps_the_scale_and_every_pixel() -> None:
    images = np.random.default_rng(0).integers(1, 256, (50, 4, 6, 3), np.uint8)
    laid = lay_on_canvas(images, (7, 8), *canvas_places(50, (4, 6), (7, 8), seed=1))
    assert laid.shape == (50, 7, 8, 3)
    places = set()
    for image, canvas in zip(images, laid, strict=True):
        rows, columns = np.nonzero(canvas.any(axis=2))
        top, left = rows.min(), columns.min()
        assert np.array_equal(canvas[top : top + 4, left : left + 6], image)
        assert np.count_nonzero(canvas) == image.size  # black everywhere else
        places.add((int(top), int(left)))
    assert places <= {(top, left) for top in range(4) for left in range(3)}  # 7 - 4 + 1 and 8 - 6 + 1 of them
    assert len(places) > 6


def test_a_smaller_canvas_cuts_out_the_centre() -> None:
    image = np.arange(36, dtype=np.uint8).reshape(1, 6, 6, 1)
    laid = lay_on_canvas(image, (2, 4), *canvas_places(1, (6, 6), (2, 4), seed=0))
    assert laid[0, :, :, 0].tolist() == [[13, 14, 15, 16], [19, 20, 21, 22]]  # rows 2, 3 and columns 1 to 4


def test_places_depend_on_the_seed_alone() -> None:
    first, same, other = (np.stack(canvas_places(20, (4, 4), (9, 9), seed)) for seed in (0, 0, 1))
    assert np.array_equal(first, same)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize(
    ("head", "verdicts"),
    [
        (FlattenDense(), ["refuses", "refuses", "native", "native", "refuses", "refuses", "refuses", "refuses"]),
        (AveragePool(), ["refuses", "refuses", "native", "native", "crops", "crops", "crops", "refuses"]),
        (GlobalAveragePool(), ["adapts", "adapts", "native", "native", "adapts", "adapts", "adapts", "adapts"]),
    ],
    ids=["flatten_dense", "average_pool", "global_average_pool"],
)
@pytest.mark.long
def test_plan_follows_the_rules(head: Head, verdicts: list[str]) -> None:
    plan = SizePlan(SmallFcn(), head, FASHION).sizes(EIGHT_SIZES)
    assert [size.map_size[0] for size in plan if size.map_size] == [3, 5, 7, 7, 8, 10, 13, 14]
    assert [size.verdict.value for size in plan] == verdicts
    window_or_map = [49 / 64, 49 / 100, 49 / 169]
    assert [size.seen_fraction for size in plan if size.verdict is Verdict.CROPS] == pytest.approx(
        window_or_map if isinstance(head, AveragePool) else []
    )
    # What is seen of the image is in test_reach.py. Of 32, 40 and 52 px, cells 0 to 6 depend on the first 34.
    of_image = [1, (34 / 40) ** 2, (34 / 52) ** 2]
    assert [size.seen_pixels for size in plan if size.verdict is Verdict.CROPS] == pytest.approx(
        of_image if isinstance(head, AveragePool) else []
    )
    others = [size for size in plan if size.verdict is not Verdict.CROPS]
    assert [size.seen_pixels for size in others] == [float(size.verdict is not Verdict.REFUSES) for size in others]
    native = plan[3]
    assert native.parameters == 65_568 + (7 * 7 * 64 * 10 + 10 if isinstance(head, FlattenDense) else 64 * 10 + 10)


@pytest.mark.long
def test_a_plan_is_made_once_for_all_seeds_and_heads_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[Size] = []

    def counted(head: keras.Model, map_shape: tuple[int, int, int]) -> np.ndarray:
        looks.append(map_shape[:2])
        return seen_cells(head, map_shape)

    monkeypatch.setattr(plan_module, "seen_cells", counted)
    monkeypatch.setattr(plan_module, "_planned", WeakKeyDictionary())
    sizes = SizeProbe(sizes=[28, 40])
    plans = [SizePlan(SmallFcn(), AveragePool(), FASHION).sizes(sizes) for _ in range(2)]
    assert plans[0] == plans[1]
    assert looks == [(7, 7), (10, 10)]
    others = [GlobalAveragePool(), AveragePool(hidden_units=[5])]
    pooled, deeper = (SizePlan(SmallFcn(), head, FASHION).sizes(sizes)[1] for head in others)
    assert [plan.verdict for plan in (plans[0][1], pooled, deeper)] == [Verdict.CROPS, Verdict.ADAPTS, Verdict.CROPS]
    assert deeper.parameters == 65_568 + 64 * 5 + 5 + 5 * 10 + 10


def test_an_image_too_small_for_the_strides_is_a_refusal_not_an_error() -> None:
    (tiny, _) = SizePlan(SmallFcn(), GlobalAveragePool(), FASHION).sizes(SizeProbe(sizes=[3]))
    assert (tiny.verdict, tiny.map_size) == (Verdict.REFUSES, None)
    assert "at least 4×4 px" in tiny.reason


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Data:
    """The digits, enlarged to 16×16 px so that the feature map has 4×4 cells."""
    return source.load(
        Dataset(name="digits", version="1.0.0", image_size=[16, 16]), 0, tmp_path_factory.mktemp("cache")
    )


def _model(head: Head) -> keras.Model:
    return build_model(SmallFcn(), head, (16, 16, 1), 10, seed=0)


def test_predictions_are_scored_for_each_mode() -> None:
    classes, confidence = np.array([0, 1, 1, 0]), np.array([0.9, 0.9, 0.5, 0.5])
    found = Predictions.of({Mode.RESIZE: (classes, confidence)}, np.array([0, 1, 0, 0]))
    assert found.accuracy(Mode.RESIZE) == 3 / 4
    # Of those with .9 both are right, of those with .5 one of two: 2/4 · |1 - .9| + 2/4 · |.5 - .5|.
    assert found.calibration_error(Mode.RESIZE) == pytest.approx(0.05)
    assert math.isnan(found.accuracy(Mode.CANVAS)) and math.isnan(found.calibration_error(Mode.CANVAS))


@pytest.mark.slow
@pytest.mark.parametrize("head", [option() for option in HEADS], ids=lambda head: head.name)
def test_measurement_agrees_with_the_plan(digits: Data, head: Head) -> None:
    probe = SizeProbe(sizes=[3, 8, 14, 16, 20, 28, 32], max_images=100)
    model = _model(head)
    logits, labels = predict(model, digits.test(100))
    plan = SizePlan(SmallFcn(), head, digits.facts)
    measured = measure_sizes(model, plan, probe, digits, logits, labels)
    planned = plan.sizes(probe)
    check_plan(head, planned, measured)
    by_height = {result.size[0]: result for result in measured}
    native = accuracy(logits[:100], labels[:100])
    assert by_height[16].as_is.accuracies == {Mode.RESIZE: native, Mode.CANVAS: native}
    for result in measured:
        refused = result.verdict is Verdict.REFUSES
        assert [math.isnan(result.as_is.accuracy(mode)) for mode in Mode] == [refused] * len(Mode)
        assert (result.seen_fraction == 0) == (result.seen_pixels == 0) == refused


@pytest.mark.long
def test_a_disagreement_fails_loudly(digits: Data) -> None:
    head, probe = AveragePool(), SizeProbe(sizes=[20], max_images=50)
    model = _model(head)
    logits, labels = predict(model, digits.test(100))
    plan = SizePlan(SmallFcn(), head, digits.facts)
    measured = measure_sizes(model, plan, probe, digits, logits, labels)
    planned = plan.sizes(probe)
    check_plan(head, planned, measured)

    def with_other(**change: object) -> list[MeasuredSize]:
        return [measured[0], dataclasses.replace(measured[1], **change)]  # type: ignore[arg-type]

    with pytest.raises(
        ContractError, match="planned crops with 0.6400 of the map and .* of the image.*measured refuses"
    ):
        check_plan(head, planned, with_other(verdict=Verdict.REFUSES))
    with pytest.raises(ContractError, match=r"measured crops with 0.5"):
        check_plan(head, planned, with_other(seen_fraction=0.5))
    with pytest.raises(ContractError, match=r"measured crops with 0.6400 and 0.5000"):
        check_plan(head, planned, with_other(seen_pixels=0.5))


def test_a_head_of_which_nothing_is_left_is_told(digits: Data) -> None:
    head = GlobalAveragePool()
    model = _model(head)
    kernel, bias = model.get_layer("head").get_weights()
    model.get_layer("head").set_weights([kernel * 0, bias])
    plan = SizePlan(SmallFcn(), head, digits.facts)
    with pytest.raises(UserError, match=r"kernel are 0 after the training: .* smaller training\.weight_decay or train"):
        measure_sizes(model, plan, SizeProbe(sizes=[20]), digits, np.zeros((360, 10)), np.zeros(360))


@pytest.mark.long
def test_a_bug_is_not_taken_for_a_refusal(digits: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    head = GlobalAveragePool()
    model = _model(head)
    plan = SizePlan(SmallFcn(), head, digits.facts)
    monkeypatch.setattr(GlobalAveragePool, "build", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        measure_sizes(model, plan, SizeProbe(sizes=[20]), digits, np.zeros((360, 10)), np.zeros(360))


@pytest.mark.long
def test_equal_weights_give_equal_logits_on_the_whole_test_split(digits: Data) -> None:
    """At the training size, a full-window AveragePooling2D, GlobalAveragePooling2D and class maps are one function."""
    average, globally = _model(AveragePool()), _model(GlobalAveragePool())
    globally.set_weights(average.get_weights())
    class_maps = _model(ConvPool())
    *backbone, kernel, bias = average.get_weights()
    class_maps.set_weights([*backbone, kernel[None, None], bias])
    for other in (globally, class_maps):
        difference = predict(average, digits.test(64))[0] - predict(other, digits.test(64))[0]
        assert difference.shape == (360, 10)
        assert np.abs(difference).max() < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("head", [FlattenDense(), AveragePool(), GlobalAveragePool()], ids=lambda head: head.name)
def test_batches_of_another_size_measure_the_same(digits: Data, head: Head) -> None:
    model = _model(head)
    logits, labels = predict(model, digits.test(100))
    plan = SizePlan(SmallFcn(), head, digits.facts)
    first, second = (
        measure_sizes(model, plan, SizeProbe(sizes=[20], batch_size=batch), digits, logits, labels)
        for batch in (360, 77)
    )
    for one, other in zip(first, second, strict=True):
        for mode in Mode:
            # Rounding may turn a tie: of fewer than one in a hundred images, here as below.
            assert one.as_is.accuracy(mode) == pytest.approx(other.as_is.accuracy(mode), abs=0.01, nan_ok=True)
            classes, others = one.as_is.classes.get(mode), other.as_is.classes.get(mode)
            assert (classes is None) == (others is None) == (one.verdict is Verdict.REFUSES)
            if classes is not None and others is not None:
                assert classes.shape == others.shape == (360,)
                assert np.mean(classes != others) < 0.01


def test_a_dead_hidden_layer_does_not_hide_the_map() -> None:
    """A ReLU that is off for every image has no gradient; the cells still reach its Dense layer."""
    head = GlobalAveragePool(hidden_units=[1]).build((3, 3, 4), 2)
    kernel, bias, *rest = head.get_weights()
    head.set_weights([-np.abs(kernel), bias - 1, *rest])
    maps = np.ones((2, 3, 3, 4), np.float32)
    assert not np.any(head(maps)[:, 0] != head(maps * 2)[:, 0])
    assert seen_cells(head, (3, 3, 4)).all()


def test_dead_convolutions_do_not_hide_the_map() -> None:
    """Of the hidden filter and of the class maps, before the mean."""
    head = ConvPool(hidden_filters=[1], class_relu=True).build((3, 3, 4), 2)
    kernel, bias, last, last_bias = head.get_weights()
    head.set_weights([-np.abs(kernel), bias - 1, last, last_bias - 1])
    assert np.array_equal(head(np.ones((1, 3, 3, 4), np.float32)), [[0, 0]])
    assert seen_cells(head, (3, 3, 4)).all()


class _Picking(AveragePool):
    """Takes the largest of the left columns of cells, with a layer whose gradient goes to one cell."""

    def collapse(self, feature_map: keras.KerasTensor, native: Size) -> keras.KerasTensor:
        rows, columns = native
        largest = keras.layers.MaxPooling2D((rows, columns - 1))(feature_map)
        return keras.layers.Flatten()(largest[:, :1, :1])


def test_a_head_that_picks_one_cell_is_looked_at_in_passes_of_bounded_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    shape = (16, 17, 4)
    passes: list[int] = []
    with_gradient = gradient._with_gradient

    def counted(head: keras.Model, maps: np.ndarray) -> np.ndarray:
        passes.append(len(maps))
        return with_gradient(head, maps)

    monkeypatch.setattr(gradient, "PASS_VALUES", 5 * 16 * 17 * 4)
    monkeypatch.setattr(gradient, "_with_gradient", counted)
    cells = seen_cells(_Picking().build(shape, 3, trained_on=(16, 17)), shape)
    assert cells[:, :16].all()
    assert not cells[:, 16].any()
    # Of equal cells it takes one. The other 271 of 16 · 17 are tried 4 channels a map, 5 maps at a time: 68 maps.
    assert passes == [1] + 13 * [5] + [3]
    passes.clear()
    for head in (GlobalAveragePool(), GlobalMaxPool(), GeneralizedMeanPool(p=100), SpatialPyramidPool()):
        assert seen_cells(head.build(shape, 3), shape).all()
    # Averaging crops, and none of the cells that it overlooks has to be tried.
    assert seen_cells(AveragePool().build(shape, 3, trained_on=(9, 9)), shape).sum() == 9 * 9
    assert passes == [1] * 5


@pytest.mark.slow
@pytest.mark.parametrize("head", [AveragePool(), GlobalMaxPool(), SpatialPyramidPool()], ids=lambda head: head.name)
def test_maps_of_256_cells_a_side_are_planned(head: Head) -> None:
    """1,024 px and strides 2 and 2."""
    facts = DatasetFacts("large", "1.0.0", (1024, 1024, 1), ("a", "b"))
    plan = SizePlan(SmallFcn(filters=[8] * 4), head, facts).at((1024, 1024))
    assert (plan.map_size, plan.verdict, plan.seen_fraction, plan.seen_pixels) == ((256, 256), Verdict.NATIVE, 1, 1)


@pytest.mark.long
def test_non_square_images_keep_their_shape_and_are_measured(tmp_path: Path) -> None:
    data = source.load(Dataset(name="digits", version="1.0.0", image_size=[12, 24]), 0, tmp_path)
    head, probe = AveragePool(), SizeProbe(sizes=[4, 8, 16, 18, 24], max_images=50)
    model = build_model(SmallFcn(), head, (12, 24, 1), 10, seed=0)
    logits, labels = predict(model, data.test(100))
    plan = SizePlan(SmallFcn(), head, data.facts)
    measured = measure_sizes(model, plan, probe, data, logits, labels)
    check_plan(head, plan.sizes(probe), measured)
    # Maps of 1×2, 2×4, 3×6, 4×8, 5×9 and 6×12 cells: the window is 3×6, twice that is 6×12.
    assert [(result.size, result.map_size, result.verdict.value) for result in measured] == [
        ((4, 8), (1, 2), "refuses"),
        ((8, 16), (2, 4), "refuses"),
        ((12, 24), (3, 6), "native"),
        ((16, 32), (4, 8), "crops"),
        ((18, 36), (5, 9), "crops"),
        ((24, 48), (6, 12), "refuses"),
    ]


def test_a_feature_map_that_no_memory_holds_is_refused_before_it_is_made() -> None:
    plan = SizePlan(SmallFcn(), GlobalAveragePool(), FASHION)
    # Two strides of 2: a map of 15,000² cells with 64 channels, 14.4e9 numbers. 2²⁸ / 64 = 2,048² cells is the most.
    with pytest.raises(ConfigError, match=r"image size=60000×60000 px: .* Use smaller size_probe\.sizes, "):
        plan.sizes(SizeProbe(sizes=[60000]))
    with pytest.raises(ConfigError, match=r"image size=8193×8193 px: its feature map of 2049×2049 cells with 64 chan"):
        plan.at((8193, 8193))


@pytest.mark.long
def test_training_sizes_that_a_head_refuses_are_refused_with_its_plan() -> None:
    SizePlan(SmallFcn(), GlobalAveragePool(), FASHION).check_training([20, 28, 40])
    SizePlan(SmallFcn(), FlattenDense(), FASHION).check_training([28])
    with pytest.raises(ConfigError) as caught:
        SizePlan(SmallFcn(), FlattenDense(), FASHION).check_training([20, 28])
    assert str(caught.value) == (
        "training.sizes=[20, 28]: head=flatten_dense on small_fcn has to take every one of them in training. But at "
        "20×20 px, the 5×5 feature map collapses to 5×5, but the first Dense kernel was trained on 7×7. Use "
        "head=global_average_pool or another head for images of any size, larger sizes, or null."
    )
    # 26 px: 7×7 cells as well, but the model's input is of one size.
    with pytest.raises(ConfigError, match="But at 26×26 px, its model is built for 28×28 px alone. Use"):
        SizePlan(SmallFcn(), AveragePool(), FASHION).check_training([26, 28])
    with pytest.raises(ConfigError, match="at 32×32 px, 23% of the 8×8 feature map is ignored"):  # 1 - 49 / 64
        SizePlan(SmallFcn(), AveragePool(), FASHION).check_training([28, 32])
    with pytest.raises(ConfigError, match="at 3×3 px, backbone=small_fcn needs images of at least 4×4 px"):
        SizePlan(SmallFcn(), GlobalAveragePool(), FASHION).check_training([3, 28])
