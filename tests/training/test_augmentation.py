"""Training images that are changed at random: what is drawn, by what, and how much of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from pipeline.data import source
from pipeline.data.batches import Data
from pipeline.data.settings import Dataset
from pipeline.training.augmentation import augment
from pipeline.training.batches import train_batches
from pipeline.training.settings import Augmentation, Training

EVERYTHING = Augmentation(
    flip=True, translate=0.2, rotate=20, zoom=0.2, operations=2, magnitude=9, erase=0.5, mixup=0.4, cutmix=1.0
)
GRID = np.arange(1, 17, dtype=np.uint8).reshape(4, 4, 1)


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Data:
    return source.load(Dataset(name="digits", version="1.0.0"), 0, tmp_path_factory.mktemp("cache"))


def _augmented(
    images: Sequence[np.ndarray], settings: Augmentation, labels: np.ndarray | None = None, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Images and labels after it; without labels, each image has a class of its own."""
    shares = tf.one_hot(np.arange(len(images)), len(images)) if labels is None else tf.constant(labels)
    changed, made = augment(tf.constant(np.stack(images)), shares, settings, tf.constant([seed, 0], tf.int64))
    return changed.numpy(), made.numpy()


def test_half_of_the_images_are_mirrored_left_to_right() -> None:
    images, labels = _augmented([GRID] * 400, Augmentation(flip=True), np.arange(400))
    mirrored = [np.array_equal(image, GRID[:, ::-1]) for image in images]
    assert all(flip or np.array_equal(image, GRID) for flip, image in zip(mirrored, images, strict=True))
    assert 160 <= sum(mirrored) <= 240  # 400 · ½ ± 4 · √(400 · ¼)
    np.testing.assert_array_equal(labels, np.arange(400))
    assert [images.dtype, labels.dtype] == [np.dtype(np.uint8), np.dtype(np.int64)]


def test_images_are_shifted_by_whole_pixels_and_their_edges_mirrored_in() -> None:
    images, _ = _augmented([GRID] * 200, Augmentation(translate=0.25))  # By up to 4 · 0.25 px.
    mirrored = np.pad(GRID, ((1, 1), (1, 1), (0, 0)), mode="symmetric")
    possible = {mirrored[top : top + 4, left : left + 4].tobytes() for top in range(3) for left in range(3)}
    assert {image.tobytes() for image in images} == possible


def test_images_are_turned_round_their_middle() -> None:
    image = np.zeros((9, 9, 1), np.uint8)
    image[4, 4:] = 255  # A line from the middle to the right.
    images, _ = _augmented([image] * 50, Augmentation(rotate=180))
    assert (images[:, 4, 4] > 100).all()
    # It goes to every side.
    assert all(images[:, row, column].max() > 100 for row, column in ((4, 7), (7, 4), (4, 1), (1, 4)))
    images, _ = _augmented([image] * 50, Augmentation(rotate=45))
    assert images[:, 4, :3].max() == 0  # Not to the left.


def test_images_are_zoomed_round_their_middle() -> None:
    image = np.zeros((21, 21, 1), np.uint8)
    image[8:13, 8:13] = 255
    images, _ = _augmented([image] * 200, Augmentation(zoom=0.5))
    np.testing.assert_allclose(images, images[:, ::-1], atol=1)
    np.testing.assert_allclose(images, images[:, :, ::-1], atol=1)
    areas = images.sum(axis=(1, 2, 3)) / 255
    # A side of 5 px becomes one of 5 / 1.5 to 5 / 0.5.
    assert 25 / 1.5**2 - 2 < areas.min() < 13
    assert 80 < areas.max() < 25 / 0.5**2 + 2


def test_a_rectangle_of_some_images_gets_their_mean() -> None:
    image = np.zeros((20, 20, 3), np.uint8)
    image[:, :10] = [200, 100, 50]
    images, _ = _augmented([image] * 400, Augmentation(erase=0.25))
    erased = (images != image).any(axis=-1)
    assert 65 <= erased.any(axis=(1, 2)).sum() <= 135  # 400 · ¼ ± 4 · √(400 · ¼ · ¾)
    for mask, changed in zip(erased, images, strict=True):
        rows, columns = np.nonzero(mask)
        if len(rows):
            assert mask[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1].all()
            # From .02 · 400 = 8 to .33 · 400 = 132 pixels, but for sides of whole pixels.
            assert 5 <= len(rows) <= 150
            np.testing.assert_array_equal(np.unique(changed[mask], axis=0), [[100, 50, 25]])


def test_mixed_images_have_the_labels_of_both_by_their_shares() -> None:
    images = [np.full((4, 4, 1), value, np.uint8) for value in (0, 100, 200)]
    changed, labels = _augmented(images, Augmentation(mixup=1.0))
    np.testing.assert_allclose(labels.sum(axis=1), 1, rtol=1e-6)
    for index, (image, label) in enumerate(zip(changed, labels, strict=True)):
        after = (index + 1) % 3
        assert label[(index + 2) % 3] == 0  # Each with the next one alone.
        value = label[index] * images[index][0, 0] + label[after] * images[after][0, 0]
        np.testing.assert_allclose(image, np.full((4, 4, 1), value), atol=0.5)  # Rounded.


def test_pasted_images_have_the_labels_of_both_by_their_pixels() -> None:
    images = [np.full((8, 8, 1), value, np.uint8) for value in (1, 2, 3, 4)]
    changed, labels = _augmented(images, Augmentation(cutmix=1.0))
    for index, (image, label) in enumerate(zip(changed, labels, strict=True)):
        after = (index + 1) % 4
        counts = [(image == value).sum() / 64 for value in (1, 2, 3, 4)]
        np.testing.assert_allclose(label, counts, rtol=1e-6)
        assert counts[index] + counts[after] == 1
    assert len(np.unique(labels)) > 4  # They are cut differently.


def test_of_two_ways_to_mix_each_image_draws_one() -> None:
    images = [np.full((8, 8, 1), value, np.uint8) for value in (0, 200)] * 50
    changed, _ = _augmented(images, Augmentation(mixup=5.0, cutmix=1.0))
    mixed = [len(np.unique(image)) == 1 and image[0, 0] not in (0, 200) for image in changed]
    assert 30 <= sum(mixed) <= 70  # 100 · ½ ± 4 · 5


def test_shares_too_small_for_a_float_are_no_shares() -> None:
    _, labels = _augmented([GRID] * 100, Augmentation(mixup=1e-6))
    np.testing.assert_allclose(labels.sum(axis=1), 1)


def _all_batches(data: Data, training: Training, done: int = 0) -> list[tuple[np.ndarray, ...]]:
    return list(train_batches(data, training, done).as_numpy_iterator())


@pytest.mark.slow
def test_seed_epoch_and_place_decide_what_is_drawn(digits: Data, tmp_path: Path) -> None:
    training = Training(epochs=2, batch_size=128, augmentation=EVERYTHING, sizes=[6, 8])
    batches = _all_batches(digits, training)
    keras.utils.set_random_seed(1)  # As another head would, which draws other weights.
    again, rest = _all_batches(digits, training), _all_batches(digits, training, done=1)
    assert len(batches) == 2 * 11
    for expected, found in ((batches, again), (batches[11:], rest)):
        for one, other in zip(expected, found, strict=True):
            assert all(np.array_equal(ours, theirs) for ours, theirs in zip(one, other, strict=True))
    assert batches[0][0].dtype == np.uint8
    other_seed = source.load(Dataset(name="digits", version="1.0.0"), 1, tmp_path)
    assert not np.array_equal(_all_batches(other_seed, training)[0][0], batches[0][0])


def test_an_image_is_changed_in_another_way_in_each_epoch() -> None:
    first, second = (_augmented([GRID] * 8, EVERYTHING, seed=seed)[0] for seed in (0, 1))
    assert not np.array_equal(first, second)
    assert len({image.tobytes() for image in first}) > 1


@pytest.mark.slow
def test_images_of_natural_sizes_keep_them(tmp_path: Path) -> None:
    dataset = Dataset(name="digits", version="1.0.0", native_size=True)
    data = source.load(dataset, 0, tmp_path)
    training = Training(epochs=1, batch_size=128, augmentation=EVERYTHING)
    images, shares = next(train_batches(data, training).as_numpy_iterator())
    assert (images.shape, shares.shape) == ((128, 8, 8, 1), (128, 10))
