"""What `pipeline.probe` says of models that Keras alone built: held against Keras itself."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import keras
import numpy as np
import pytest

from pipeline.common.condition import AS_IS, Mode
from pipeline.common.errors import ConfigError
from pipeline.common.size import Size
from pipeline.data.labelled import Labelled, Taker, open_folder
from pipeline.data.splits import DecodedSplit
from pipeline.heads.verdict import Verdict
from pipeline.other_sizes.convert import Conversion
from pipeline.other_sizes.modes import MAKERS, canvas_places
from pipeline.other_sizes.probe import Pixels, Probe, ProbedSize, Score
from pipeline.other_sizes.probe_best import best_ways
from pipeline.other_sizes.seen import seen_pixels
from pipeline.other_sizes.settings import SizeProbe
from tests.other_sizes.own_models import CLASSES, MODELS, SIDE, average_window, flatten_dense

IMAGES = 24
# Keras's own `predict` compiles MobileNetV2 for half a minute.
NAMES = [pytest.param(name, marks=pytest.mark.slow) if name == "mobile_net" else name for name in MODELS]
R, N, A, C = Verdict.REFUSES, Verdict.NATIVE, Verdict.ADAPTS, Verdict.CROPS
# A map of 16 px has 8 cells a side, since a stride of 2 rounds up: 15 px have 8 too.
# The window of 8 cells takes 9 to 15 of them and ignores some; of 7 nothing is left, and of 16 it makes four.
VERDICTS: Mapping[str, Mapping[int, Verdict]] = {
    "global_average": {8: A, 14: A, 15: N, 16: N, 17: A, 20: A, 30: A, 32: A},
    "average_window": {8: R, 14: R, 15: N, 16: N, 17: C, 20: C, 30: C, 32: R},
    "flatten_dense": {8: R, 15: R, 16: N, 17: R, 32: R},
    "mobile_net": {16: R, 31: R, 32: N, 33: R, 64: R},
    "u_net": {8: A, 14: A, 15: R, 16: N, 17: R, 20: A, 32: A},  # Halves of odd sides do not fit together.
}


def _images(side: int, count: int = IMAGES) -> np.ndarray:
    """Noise of many tints, uint8 (N, side, side, 3), so that not all are of one class."""
    generator = np.random.default_rng(0)
    return (generator.integers(0, 256, (count, side, side, 3)) * generator.random((count, 1, 1, 3))).astype(np.uint8)


def _labelled(images: np.ndarray, labels: np.ndarray) -> Labelled:
    return Labelled("own", DecodedSplit("own", "0", images, labels), labels)


def _answers(model: keras.Model, images: np.ndarray) -> np.ndarray | None:
    """What Keras gives; None if it raises, or gives something else than an output a class."""
    try:
        outputs = np.asarray(model(images.astype("float32"), training=False))
    except Exception:
        return None
    return outputs if outputs.shape == (len(images), CLASSES) and np.isfinite(outputs).all() else None


def _certain(model: keras.Model, images: np.ndarray) -> np.ndarray:
    """The same at a size that the model takes."""
    answers = _answers(model, images)
    assert answers is not None
    return answers


def _of_several_classes(model: keras.Model, images: np.ndarray) -> keras.Model:
    """The same with another last bias, so that no class is the first for all images."""
    outputs = np.asarray(model(images.astype("float32"), training=False))
    # A softmax's logits are the logarithms of its outputs, up to a constant.
    softmax = np.allclose(outputs.sum(axis=1), 1)
    model.weights[-1].assign_sub((np.log(outputs) if softmax else outputs).mean(axis=0))
    return model


def _made(images: np.ndarray, size: Size, mode: Mode) -> np.ndarray:
    return np.asarray(MAKERS[mode](images, size, *canvas_places(len(images), images.shape[1:3], size, seed=0)))


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("name", NAMES)
def test_verdicts_and_accuracies_are_those_of_keras(name: str) -> None:
    build, side = MODELS[name]
    images = _images(side)
    model = _of_several_classes(build(), images)
    before = model.get_weights()
    labels = np.random.default_rng(1).integers(0, CLASSES, IMAGES)
    probe = SizeProbe(sizes=list(VERDICTS[name]), ways=[], batch_size=7)
    probed = Probe(Conversion(model, name, [side, side]), _labelled(images, labels), probe, Pixels()).sizes()
    assert {result.size[0]: result.verdict for result in probed} == VERDICTS[name]
    for result in probed:
        refuses = _answers(model, _made(images, result.size, Mode.RESIZE)) is None
        assert (result.verdict is R) == refuses == (result.scores == {}), result.size
        for mode, score in result.scores.get(AS_IS, {}).items():
            # As many images at a time: of two that are almost equal, rounding decides, and it goes by the batch.
            predicted = model.predict(_made(images, result.size, mode).astype("float32"), batch_size=7, verbose=0)
            assert score.accuracy == np.mean(predicted.argmax(axis=1) == labels), (result.size, mode)
        if result.size == (side, side):
            assert len(np.unique(predicted.argmax(axis=1))) > 1  # Else any two models would agree.
    for kept, now in zip(before, model.get_weights(), strict=True):
        assert np.array_equal(kept, now)  # Other weights were in it meanwhile.


@pytest.mark.long
@pytest.mark.parametrize("name", NAMES)
def test_what_is_not_seen_changes_nothing_and_what_is_seen_does(name: str) -> None:
    model = MODELS[name][0]()
    taken = [(height, height) for height, verdict in VERDICTS[name].items() if verdict is not R]
    for size, seen in seen_pixels(model, taken).items():
        images = _images(size[0], count=2)
        plain = _certain(model, images)
        other = np.where(seen[..., None], images, 255 - images)
        assert np.array_equal(plain, _certain(model, other)), size
        rows, columns = np.nonzero(seen)
        edges = [(rows.min(), columns.min()), (rows.max(), columns.max())]
        for row, column in edges:
            changed = images.copy()
            changed[:, row, column] = 255 - changed[:, row, column]
            assert not np.array_equal(plain, _certain(model, changed)), (size, row, column)


@pytest.mark.long
def test_shares_are_those_of_the_window() -> None:
    labels = np.zeros(2, np.int64)
    conversion = Conversion(average_window(), "window", [SIDE, SIDE])
    probe = SizeProbe(sizes=[17, 20], ways=[])
    _, seventeen, twenty = Probe(conversion, _labelled(_images(SIDE, 2), labels), probe, Pixels()).sizes()
    # Cell 7, the last of the window, is the convolution of 3 at stride 2 over rows 14 to 16 or 13 to 15, by whether
    # padding comes first, and each of these sees a row more on either side.
    assert (seventeen.map_size, seventeen.seen_fraction, seventeen.seen_pixels) == ((9, 9), 64 / 81, 1.0)
    assert (twenty.map_size, twenty.seen_fraction, twenty.seen_pixels) == ((10, 10), 64 / 100, 18**2 / 20**2)


@pytest.mark.slow
def test_ways_answer_like_their_converted_models() -> None:
    images = _images(SIDE)
    model = _of_several_classes(flatten_dense(), images)
    labels = np.random.default_rng(1).integers(0, CLASSES, IMAGES)
    conversion = Conversion(model, "own")
    probed = Probe(conversion, _labelled(images, labels), SizeProbe(sizes=[12, 20]), Pixels()).sizes()
    assert [list(result.scores) for result in probed] == [
        ["resize_input", "resize_map", "interpolate_map"],  # The kernel's window does not fit into 6×6 cells.
        [AS_IS, "resize_input", "dense_to_conv", "dense_to_conv_mean_max", "resize_map", "interpolate_map"],
        ["resize_input", "dense_to_conv", "dense_to_conv_mean_max", "resize_map", "interpolate_map"],
    ]
    for result in (probed[0], probed[2]):
        for name, by_mode in result.scores.items():
            converted = conversion.ways[name].convert(model, conversion.parts, conversion.size)
            for mode, score in by_mode.items():
                answers = np.asarray(converted(_made(images, result.size, mode).astype("float32"), training=False))
                assert np.array_equal(score.right, answers.argmax(axis=1) == labels), (name, result.size, mode)


@pytest.mark.slow
def test_pixels_are_scaled_before_the_model() -> None:
    inputs = keras.Input((4, 4, 1))
    x = keras.layers.Dense(2, kernel_initializer="zeros")(keras.layers.Flatten()(inputs))
    model = keras.Model(inputs, x)
    kernel, bias = np.zeros((16, 2), np.float32), np.array([0, 0.5], np.float32)
    kernel[:, 0] = 1 / 16  # The mean, which is above 0.5 for the brighter image alone, if pixels are from 0 to 1.
    model.layers[-1].set_weights([kernel, bias])
    images = np.stack([np.full((4, 4, 1), level, np.uint8) for level in (100, 200)])
    data = _labelled(images, np.array([1, 0]))
    accuracies = [
        Probe(Conversion(model, "own"), data, SizeProbe(sizes=[4], ways=[]), pixels).sizes()[0].scores[AS_IS]
        for pixels in (Pixels(), Pixels(1 / 255), Pixels(1 / 255, -1))
    ]
    # 100 and 200 > 0.5: both of class 0; 0.39 and 0.78: one each; -0.61 and -0.22: both of class 1.
    assert [score[Mode.RESIZE].right.tolist() for score in accuracies] == [[False, True], [True, True], [True, False]]


def test_a_way_that_the_model_does_not_allow_is_refused() -> None:
    data = _labelled(_images(SIDE, 2), np.zeros(2, np.int64))
    with pytest.raises(ConfigError, match="size_probe.ways=.*global_pool is not for this model.*resize_map"):
        Probe(Conversion(flatten_dense(), "own"), data, SizeProbe(ways=["global_pool"]), Pixels())


def test_intervals_are_wilsons() -> None:
    # Wilson 1927: (p + z²/2n ± z √(p(1 − p)/n + z²/4n²)) / (1 + z²/n) with p = 0.9, n = 10, z = 1.959964.
    score = Score(np.arange(10) > 0)
    assert score.accuracy == 0.9
    assert score.interval == pytest.approx((0.59585, 0.98212), abs=1e-5)


def _probed(height: int, **right: list[int]) -> ProbedSize:
    scores = {way.replace("as_is", AS_IS): dict.fromkeys(Mode, Score(np.array(of, bool))) for way, of in right.items()}
    return ProbedSize((height, height), Verdict.ADAPTS, "", None, None, 1.0, scores)


def test_the_best_way_takes_every_size_of_its_side_and_says_how_sure_that_is() -> None:
    probed = [
        _probed(8, as_is=[1, 0, 0, 0]),
        _probed(16, as_is=[1, 1, 1, 1], a=[1, 1, 1, 1], b=[1, 1, 1, 1]),
        _probed(24, as_is=[0, 0, 0, 0], a=[1, 1, 1, 0], b=[1, 1, 0, 1]),
        _probed(32, as_is=[0, 0, 0, 0], a=[1, 1, 1, 1], b=[1, 1, 0, 0], c=[1, 1, 1, 1]),
    ]
    below, _, above, _ = best_ways(probed, (16, 16))
    assert (below.way, below.accuracy, below.lead) == (AS_IS, 0.25, None)
    assert (above.way, above.accuracy, above.sizes) == ("a", 7 / 8, ((24, 24), (32, 32)))
    # By image, a is ahead of b by 0, 0, 1 and 0: the mean is 1/4, its standard error 1/4, and t(3) = 3.18.
    lead = above.lead
    assert lead is not None
    assert (lead.way, lead.accuracy, lead.mean, lead.is_certain) == ("b", 5 / 8, 1 / 4, False)
    assert (lead.low, lead.high) == pytest.approx((0.25 - 3.18245 / 4, 0.25 + 3.18245 / 4), abs=1e-4)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Of class b one black image, of class a two white ones."""
    for name, level, count in (("b", 0, 1), ("a", 255, 2)):
        (tmp_path / "own" / name).mkdir(parents=True)
        for index in range(count):
            image = np.full((6, 5, 3), level, np.uint8)
            keras.utils.save_img(tmp_path / "own" / name / f"{index}.png", image, scale=False)
    return tmp_path / "own"


def test_classes_of_a_folder_are_in_alphabetical_order_as_in_keras_or_by_name(folder: Path) -> None:
    by_keras = keras.utils.image_dataset_from_directory(folder, image_size=(4, 4), shuffle=False, verbose=False)
    assert by_keras.class_names == ["a", "b"]
    for names, white in ((None, 0), (("b", "a"), 1), (("z", "b", "a"), 2)):
        data = open_folder(str(folder), Taker("own", (4, 4, 3), 2, names), None)
        assert len(data.labels) == 3
        (images,) = data.batches(5)
        assert images.shape == (3, 4, 4, 3)
        assert {(int(image.mean()), int(label)) for image, label in zip(images, data.labels, strict=True)} == {
            (255, white),
            (0, 1 if names is None else names.index("b")),
        }
    assert len(open_folder(str(folder), Taker("own", (4, 4, 3), 2), 2).labels) == 2


def test_what_does_not_belong_together_gets_one_message(folder: Path) -> None:
    def message(path: Path, taker: Taker) -> str:
        with pytest.raises(ConfigError) as caught:
            open_folder(str(path), taker, None)
        return str(caught.value)

    own = Taker("own.keras", (4, 4, 3), 2)
    assert "has 2 classes (a, b), and own.keras has 3 outputs" in message(folder, Taker("own.keras", (4, 4, 3), 3))
    named = Taker("own.keras", (4, 4, 3), 2, ("a", "c"))
    assert "has classes that own.keras does not have: b. Its classes are a, c." in message(folder, named)
    assert "takes images of 2 channels" in message(folder, Taker("own.keras", (4, 4, 2), 2))
    assert "is not a folder" in message(folder / "none", own)
    assert "holds no folder of a class" in message(folder / "a", own)
    (folder / "b" / "1.png").write_text("no image")
    assert "1 of 4 files cannot be read as images" in message(folder, own)
    (folder / "c").mkdir()
    assert "holds no .png, .jpg, .jpeg file of c" in message(folder, own)
