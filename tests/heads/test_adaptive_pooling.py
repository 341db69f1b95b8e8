"""Adaptive pooling against its definition, in every way in which a model is run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from pipeline.common.size import Size
from pipeline.heads.adaptive_pooling import adaptive_average_pool, adaptive_max_pool

SIZES: list[Size] = [(1, 1), (1, 2), (3, 3), (4, 5), (7, 7), (8, 6), (9, 14), (20, 13)]


def by_definition(maps: np.ndarray, bins: Size, reduce: Callable[..., Any]) -> np.ndarray:
    _, height, width, _ = maps.shape
    rows, columns = bins
    cells = [
        [
            maps[
                :,
                i * height // rows : -(-(i + 1) * height // rows),
                j * width // columns : -(-(j + 1) * width // columns),
            ]
            for j in range(columns)
        ]
        for i in range(rows)
    ]
    return np.stack([np.stack([reduce(cell, axis=(1, 2)) for cell in row], axis=1) for row in cells], axis=1)


@pytest.mark.long
@pytest.mark.parametrize("bins", [(1, 1), (4, 3), (7, 7)])
@pytest.mark.parametrize(
    ("pool", "reduce"), [(adaptive_average_pool, np.mean), (adaptive_max_pool, np.max)], ids=["average", "max"]
)
def test_equals_the_definition(pool: Any, reduce: Any, bins: Size, tmp_path: Path) -> None:
    inputs = keras.Input((None, None, 5))
    model = keras.Model(inputs, pool(inputs, bins))
    assert model.output_shape == (None, *bins, 5)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras", safe_mode=True)
    model.export(tmp_path / "exported", verbose=False)
    exported = tf.saved_model.load(str(tmp_path / "exported"))
    compiled = tf.function(loaded, input_signature=[tf.TensorSpec((None, None, None, 5))])
    for size in SIZES:
        maps = np.random.default_rng(0).standard_normal((3, *size, 5), np.float32)
        expected = by_definition(maps, bins, reduce)
        for way in (model, loaded, compiled, exported.serve):
            assert way(maps).numpy() == pytest.approx(expected, abs=1e-6), (size, way)


def test_a_map_of_as_many_cells_as_bins_stays_as_it_is() -> None:
    inputs = keras.Input((None, None, 2))
    maps = np.random.default_rng(0).standard_normal((3, 5, 4, 2), np.float32)
    for pool in (adaptive_average_pool, adaptive_max_pool):
        assert np.array_equal(keras.Model(inputs, pool(inputs, (5, 4)))(maps), maps)
