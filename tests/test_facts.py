"""The facts that the program stands on, each shown on Keras itself."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest

MAP = np.arange(1, 10, dtype=np.float32).reshape(1, 3, 3, 1)
"""The 3×3 map
    1 2 3
    4 5 6
    7 8 9"""


def test_average_pooling_keeps_positions_and_global_average_pooling_does_not() -> None:
    pooled = keras.layers.AveragePooling2D((2, 2), strides=(1, 1))(MAP)
    assert pooled.shape == (1, 2, 2, 1)
    # (1+2+4+5)/4 = 3, (2+3+5+6)/4 = 4, (4+5+7+8)/4 = 6, (5+6+8+9)/4 = 7
    assert keras.layers.Flatten()(pooled).numpy().tolist() == [[3, 4, 6, 7]]
    assert keras.layers.GlobalAveragePooling2D()(MAP).shape == (1, 1)
    assert keras.layers.GlobalAveragePooling2D(keepdims=True)(MAP).shape == (1, 1, 1, 1)


def test_strides_larger_than_what_is_left_see_only_a_corner() -> None:
    corner = keras.layers.AveragePooling2D((2, 2), strides=(3, 3))(MAP)
    assert corner.numpy().ravel().tolist() == [3]  # (1+2+4+5)/4, top left


def test_a_full_window_is_global_average_pooling() -> None:
    full = keras.layers.AveragePooling2D((3, 3))(MAP)
    mean = keras.layers.GlobalAveragePooling2D()(MAP)
    for pooled in (full, mean):
        assert pooled.numpy().ravel().tolist() == pytest.approx([5])  # 45 / 9, or 45 times a rounded 1 / 9


def test_average_pooling_in_half_precision_adds_up_in_it_and_global_average_pooling_does_not() -> None:
    """Why every mean over a map is computed in float32.

    float16 has 11 bits: from 256 on it holds multiples of 1/4 at most, so that each further 3.9 counts as 4. On 28×28
    cells that makes 4 of all but the first 66 = 256 / 3.9, and more than 3.98 of the mean.
    """
    feature_map = np.full((1, 28, 28, 1), 3.9, np.float16)
    with keras.device("cpu"):
        full = keras.layers.AveragePooling2D((28, 28), dtype="float16")(feature_map)
        mean = keras.layers.GlobalAveragePooling2D(dtype="float16")(feature_map)
        in_float32 = keras.layers.AveragePooling2D((28, 28), dtype="float32")(feature_map)
    assert 3.98 < float(full[0, 0, 0, 0]) <= 4
    assert float(mean[0, 0]) == float(feature_map[0, 0, 0, 0])
    assert float(in_float32[0, 0, 0, 0]) == pytest.approx(float(feature_map[0, 0, 0, 0]), rel=1e-5)


def test_a_window_larger_than_the_map_cannot_be_built() -> None:
    with pytest.raises(ValueError, match="zero or negative"):
        keras.layers.AveragePooling2D((7, 7))(keras.Input((6, 6, 1)))


def test_a_window_larger_than_the_map_gives_an_empty_map_when_called_eagerly() -> None:
    empty = keras.layers.AveragePooling2D((7, 7))(np.ones((1, 6, 6, 1), np.float32)).numpy()
    assert empty.size == 0
    with np.errstate(invalid="ignore"), pytest.warns(RuntimeWarning):
        assert np.isnan(empty.mean())


def test_between_one_and_two_windows_the_rest_is_ignored_without_a_word() -> None:
    image = np.zeros((1, 13, 13, 1), np.float32)
    image[:, 7:, :], image[:, :, 7:] = 1, 1
    pooled = keras.layers.AveragePooling2D((7, 7))(image)
    assert pooled.shape == (1, 1, 1, 1)
    assert pooled.numpy().item() == 0  # None of the ones was seen: 13² - 7² = 120 of 169 cells, 71 %.
    assert round(1 - 7 * 7 / (13 * 13), 2) == 0.71


def test_from_two_windows_on_the_dense_kernel_no_longer_fits() -> None:
    def model(side: int) -> keras.Model:
        inputs = keras.Input((side, side, 1))
        pooled = keras.layers.Flatten()(keras.layers.AveragePooling2D((7, 7))(inputs))
        return keras.Model(inputs, keras.layers.Dense(10)(pooled))

    model(13).set_weights(model(7).get_weights())
    with pytest.raises(ValueError, match="shape"):
        model(14).set_weights(model(7).get_weights())


def test_skip_mismatch_leaves_a_random_kernel(tmp_path: Path) -> None:
    """Why weights are never loaded with `skip_mismatch`: it warns, and the head stays as it was drawn."""

    def model(side: int) -> keras.Model:
        inputs = keras.Input((side, side, 1))
        return keras.Model(inputs, keras.layers.Dense(10)(keras.layers.Flatten()(inputs)))

    path = tmp_path / "flatten.weights.h5"
    model(3).save_weights(path)
    other = model(4)
    before = other.get_weights()[0].copy()
    with pytest.warns(UserWarning):
        other.load_weights(path, skip_mismatch=True)
    assert np.array_equal(other.get_weights()[0], before)


def test_only_a_model_built_for_any_size_takes_another_size() -> None:
    def model(size: tuple[int | None, int | None]) -> keras.Model:
        inputs = keras.Input((*size, 1))
        return keras.Model(inputs, keras.layers.Dense(10)(keras.layers.GlobalAveragePooling2D()(inputs)))

    fixed, free = model((28, 28)), model((None, None))
    with pytest.raises(ValueError, match="incompatible"):
        fixed(np.zeros((1, 36, 36, 1), np.float32))
    free.set_weights(fixed.get_weights())
    assert free(np.zeros((1, 36, 36, 1), np.float32)).shape == (1, 10)
    image = np.random.default_rng(0).random((4, 28, 28, 1), np.float32)
    assert np.array_equal(free(image), fixed(image))
