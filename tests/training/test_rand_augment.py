"""RandAugment's operations beside Pillow's, and how they are drawn."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageEnhance, ImageOps

from pipeline.training.augmentation import augment
from pipeline.training.rand_augment import OPERATIONS, apply, rand_augment
from pipeline.training.settings import Augmentation

RNG = np.random.default_rng(0)
# Not all values, so that a spread and an equal distribution change something; colours and grey.
COLOURED = RNG.integers(40, 200, (20, 30, 3), dtype=np.uint8)
GREY = (RNG.beta(2, 5, (20, 30, 1)) * 220 + 10).astype(np.uint8)


def _applied(image: np.ndarray, operation: str, strength: float, sign: float = 1.0) -> np.ndarray:
    one = tf.cast(image[None], tf.float32)
    chosen = tf.constant([OPERATIONS.index(operation)])
    return np.round(apply(one, chosen, tf.constant([sign]), strength).numpy()[0]).astype(int)


def _by_pillow(image: np.ndarray, operation: str, strength: float, sign: float) -> np.ndarray:
    pixels = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
    factor = 1 + sign * strength * 0.9
    made = {
        "identity": lambda: pixels,
        "brightness": lambda: ImageEnhance.Brightness(pixels).enhance(factor),
        "color": lambda: ImageEnhance.Color(pixels).enhance(factor),
        "contrast": lambda: ImageEnhance.Contrast(pixels).enhance(factor),
        "sharpness": lambda: ImageEnhance.Sharpness(pixels).enhance(factor),
        "posterize": lambda: ImageOps.posterize(pixels, 8 - round(strength * 4)),
        "solarize": lambda: ImageOps.solarize(pixels, round(255 * (1 - strength))),
        "autocontrast": lambda: ImageOps.autocontrast(pixels),
        "equalize": lambda: ImageOps.equalize(pixels),
    }[operation]()
    return np.asarray(made, int).reshape(image.shape)


@pytest.mark.parametrize("image", [COLOURED, GREY], ids=["coloured", "grey"])
@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("operation", [name for name in OPERATIONS if name not in OPERATIONS[1:6]])
def test_operations_on_values_are_pillows(image: np.ndarray, operation: str, sign: float) -> None:
    # Pillow cuts off where this rounds, in the grey image that it starts from and in the result: a value or two.
    allowed = 0 if operation in ("identity", "posterize", "solarize", "equalize") else 2
    for strength in (0.2, 1.0):
        found = _applied(image, operation, strength, sign)
        np.testing.assert_allclose(found, _by_pillow(image, operation, strength, sign), atol=allowed)


def test_operations_on_places() -> None:
    image = np.zeros((21, 21, 1), np.uint8)
    image[10, 10], image[10, 15] = 100, 200  # In the middle, and 5 px to the right of it.
    # 30/30 · 150/331 of 21 px are 9.52, so the image comes from 10 px to the right.
    shifted = _applied(image, "translate_x", 1.0)
    assert (shifted[10, 0, 0], shifted[10, 5, 0], shifted.sum()) == (100, 200, 300)
    assert _applied(image, "translate_x", 1.0, -1.0)[10, 20, 0] == 100
    assert _applied(image, "translate_y", 1.0, -1.0)[20, 10, 0] == 100
    # Sheared along x, the middle row stays; along y, 5 px to the right, the image comes from 5 · .3 = 1.5 px below.
    np.testing.assert_array_equal(_applied(image, "shear_x", 1.0), image)
    sheared = _applied(image, "shear_y", 1.0)
    assert (sheared[10, 10, 0], sheared[8, 15, 0], sheared[9, 15, 0]) == (100, 100, 100)
    # Turned by 30°: 5 px away at (4.33, 2.5), so the brightest pixel is one of those round it.
    turned = _applied(image, "rotate", 1.0)
    row, column, _ = np.unravel_index(np.where(turned > 0, turned, 0)[:, 12:].argmax(), (21, 9, 1))
    assert (abs(abs(row - 10) - 2.5), abs(column + 12 - 14.33)) <= (0.5, 0.5)


def test_each_image_has_operations_of_its_own_all_equally_likely() -> None:
    count = 2800
    images = tf.tile(tf.cast(COLOURED[None], tf.float32), [count, 1, 1, 1])
    changed = rand_augment(images, 1, 15, tf.constant([0, 0])).numpy()
    as_it_was = (changed == COLOURED).all(axis=(1, 2, 3)).sum()
    assert 144 <= as_it_was <= 256  # 2800 / 14 = 200, ± 4 · √(200 · 13/14) = 54.5
    # The image as it was, nine operations with two ways to go each, and four with one.
    assert len({image.tobytes() for image in changed}) == 1 + 2 * 9 + 4
    assert changed.min() >= 0 and changed.max() <= 255


def test_operations_leave_the_other_draws_as_they_are() -> None:
    images, labels = tf.constant(np.stack([GREY] * 8)), tf.one_hot(range(8), 8)
    seed = tf.constant([3, 4], tf.int64)
    without = augment(images, labels, Augmentation(mixup=1.0), seed)[1]
    changed, shares = augment(images, labels, Augmentation(mixup=1.0, operations=2, magnitude=20), seed)
    np.testing.assert_array_equal(shares, without)
    again = augment(images, labels, Augmentation(mixup=1.0, operations=2, magnitude=20), seed)[0]
    np.testing.assert_array_equal(changed, again)
    assert changed.dtype == tf.uint8
    assert Augmentation(operations=1).is_on


def test_traced_for_any_size_it_does_the_same_and_keeps_the_channels() -> None:
    def twice(images: tf.Tensor) -> tf.Tensor:
        return rand_augment(images, 2, 9, tf.constant([1, 2]))

    traced = tf.function(twice, input_signature=[tf.TensorSpec((None, None, None, 3))]).get_concrete_function()
    assert traced.structured_outputs.shape.as_list() == [None, None, None, 3]
    images = tf.cast(np.stack([COLOURED] * 20), tf.float32)
    np.testing.assert_allclose(traced(images), twice(images), atol=1e-3)
