"""Training at several image sizes: which size each step has, how many images, and what of a training is left."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from pipeline.data import source
from pipeline.data.batches import Data
from pipeline.data.settings import Cache, Dataset
from pipeline.data.tf_data import resize
from pipeline.heads.global_pools import GlobalAveragePool
from pipeline.models.backbones.small import SmallFcn
from pipeline.models.build import build_model
from pipeline.training.batches import train_batches
from pipeline.training.fit import fit
from pipeline.training.settings import BatchCounts, SizeSchedule, Training
from pipeline.training.step_sizes import sized_steps

Batches = Sequence[tuple[np.ndarray, np.ndarray]]


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Data:
    """1,293 training images of 8×8 px."""
    return _load(tmp_path_factory.mktemp("cache"))


def _load(directory: Path, seed: int = 0, **settings: Any) -> Data:
    return source.load(Dataset(name="digits", version="1.0.0", **settings), seed, directory)


def _training(**settings: Any) -> Training:
    return Training(**{"epochs": 2, "batch_size": 32, "sizes": [16, 4, 8], **settings})


def _batches(data: Data, training: Training, done: int = 0) -> Batches:
    keras.utils.set_random_seed(0)  # As `build_model` does.
    return list(train_batches(data, training, done).as_numpy_iterator())


def _heights(batches: Batches) -> list[int]:
    return [images.shape[1] for images, _ in batches]


@pytest.mark.long
def test_each_step_draws_a_size_by_the_seed(digits: Data, tmp_path: Path) -> None:
    plain, drawn = _batches(digits, _training(sizes=None)), _batches(digits, _training())
    assert len(plain) == len(drawn) == 2 * 41  # ⌈1,293 / 32⌉
    for (images, labels), (resized, same_labels) in zip(plain, drawn, strict=True):
        assert np.array_equal(labels, same_labels)  # the same images in the same order
        assert np.array_equal(resized, resize(images, resized.shape[1:3]))
    counts = np.unique(_heights(drawn), return_counts=True)
    assert counts[0].tolist() == [4, 8, 16]
    assert counts[1].min() > 82 / 3 - 3 * (82 * 2 / 9) ** 0.5  # three standard deviations of a fair draw
    assert _heights(drawn[:41]) != _heights(drawn[41:])
    assert _heights(_batches(digits, _training())) == _heights(drawn)
    assert _heights(_batches(_load(tmp_path, seed=1), _training())) != _heights(drawn)


@pytest.mark.long
def test_a_progressive_training_goes_from_the_smallest_to_the_largest_size(digits: Data) -> None:
    """82 steps: of the t-th, from 0, the size number is ⌊3t / 82⌋."""
    batches = _batches(digits, _training(size_schedule=SizeSchedule.progressive))
    assert _heights(batches) == 28 * [4] + 27 * [8] + 27 * [16]


@pytest.mark.long
@pytest.mark.parametrize("cache", [Cache.memory, Cache.none])
def test_steps_of_equal_pixels_take_every_image_once(cache: Cache, tmp_path: Path) -> None:
    """32 images of 8 px have the pixels of 128 of 4 px and of 8 of 16 px; 431 images of each size are a third.

    An epoch has ⌈431 / 128⌉ + ⌈431 / 32⌉ + ⌈431 / 8⌉ = 4 + 14 + 54 steps.
    """
    data = _load(tmp_path, cache=cache)
    training = _training(batch_counts=BatchCounts.pixels)
    batches = _batches(data, training)
    assert len(batches) == 2 * 72
    plain = _batches(data, _training(sizes=None))
    for epoch in (0, 1):
        steps = batches[72 * epoch : 72 * (epoch + 1)]
        labels = np.concatenate([labels for _, labels in steps])
        # The same images in the same order, cut in other places.
        assert np.array_equal(labels, np.concatenate([labels for _, labels in plain[41 * epoch : 41 * (epoch + 1)]]))
        for height, most in ((4, 128), (8, 32), (16, 8)):
            lengths = sorted((len(images) for images, _ in steps if images.shape[1] == height), reverse=True)
            assert sum(lengths) == 431
            assert set(lengths[:-1]) == {most}
    assert _heights(batches[:72]) != _heights(batches[72:])


@pytest.mark.long
@pytest.mark.parametrize(
    "settings",
    [{}, {"size_schedule": SizeSchedule.progressive}, {"batch_counts": BatchCounts.pixels}],
    ids=["uniform", "progressive", "pixels"],
)
@pytest.mark.parametrize("cache", [Cache.memory, Cache.none])
def test_what_is_left_of_a_training_comes_as_if_it_had_not_stopped(
    cache: Cache, settings: dict[str, Any], tmp_path: Path
) -> None:
    data, training = _load(tmp_path, cache=cache), _training(epochs=3, **settings)
    whole, left = _batches(data, training), _batches(data, training, done=2)
    assert len(left) == len(whole) / 3
    for (images, labels), (same_images, same_labels) in zip(whole[-len(left) :], left, strict=True):
        assert np.array_equal(images, same_images)
        assert np.array_equal(labels, same_labels)


@pytest.mark.long
def test_an_average_has_statistics_of_all_sizes_also_where_the_first_steps_have_one(
    digits: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    heights: set[int] = set()

    def take(_: keras.Model, batches: tf.data.Dataset) -> None:
        heights.update(images.shape[1] for images, _ in batches.as_numpy_iterator())

    monkeypatch.setattr("pipeline.training.average._take_statistics", take)
    model = build_model(SmallFcn(filters=[8, 8], strides=[1, 2]), GlobalAveragePool(), (8, 8, 1), 10, seed=0)
    training = _training(epochs=1, size_schedule=SizeSchedule.progressive, weight_average=0.5)
    fit(model, digits, training, lambda *_: None)
    assert heights == {4, 8, 16}


@pytest.mark.long
def test_an_epoch_of_equal_pixels_trains_all_of_its_steps(digits: Data) -> None:
    model = build_model(SmallFcn(filters=[8, 8], strides=[1, 2]), GlobalAveragePool(), (8, 8, 1), 10, seed=0)
    losses: list[float] = []
    fit(model, digits, _training(batch_counts=BatchCounts.pixels), lambda _, logs: losses.append(logs["loss"]))
    assert int(model.optimizer.iterations) == 2 * 72
    assert losses[1] < losses[0]


@pytest.mark.long
def test_sizes_keep_the_shape_of_the_images(tmp_path: Path) -> None:
    data = _load(tmp_path, image_size=[10, 20])
    images, _ = _batches(data, _training(sizes=[5]))[0]
    assert images.shape == (32, 5, 10, 1)
    sized = sized_steps(data, _training(sizes=[5], batch_counts=BatchCounts.pixels))
    assert sized is not None
    assert sorted(sized.images[0].tolist()) == [13] + [128] * 10  # 1,293 = 10 · 128 + 13


@pytest.mark.parametrize(
    ("height", "images"),
    [(28, 128), (14, 512), (56, 32), (20, 251), (40, 63), (1000, 1)],
    # 128 · 784 / 400 = 250.9; 128 · 784 / 1,600 = 62.7; 128 · 784 / 10⁶ = 0.1, and one is the least
)
def test_a_step_has_as_many_images_as_have_the_same_pixels(height: int, images: int) -> None:
    training = Training(batch_size=128, sizes=[height], batch_counts=BatchCounts.pixels)
    assert training.images_of_step((28, 28), height) == images
