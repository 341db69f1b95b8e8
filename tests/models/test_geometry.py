"""What a backbone makes of images of any size is found once in a process, and anew where it may differ."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import pytest

from pipeline.models import geometry
from pipeline.models.backbones.base import Backbone
from pipeline.models.backbones.pretrained import FromModel
from pipeline.models.backbones.small import SmallFcn
from pipeline.models.geometry import MOST_KEPT, Geometry, geometry_of
from pipeline.training.settings import Precision

SMALL = SmallFcn(filters=[8, 8], strides=[1, 2])


def test_runs_share_what_differs_in_nothing_that_decides_it(in_precision: Callable[[Precision], None]) -> None:
    shared = geometry_of(SMALL, 1)
    assert geometry_of(dataclasses.replace(SMALL), 1) is shared
    assert geometry_of(SMALL, 3) is not shared
    assert geometry_of(dataclasses.replace(SMALL, strides=[2, 2]), 1) is not shared
    in_precision(Precision.mixed_bfloat16)
    assert geometry_of(SMALL, 1) is not shared


def test_a_file_that_was_written_again_is_another_backbone(tmp_path: Path) -> None:
    path = tmp_path / "my.keras"

    def written(stride: int) -> Backbone:
        inputs = keras.Input((8, 8, 1))
        x = keras.layers.Conv2D(2, 3, stride, padding="same")(inputs)
        keras.Model(inputs, keras.layers.Dense(3)(keras.layers.GlobalAveragePooling2D()(x))).save(path)
        return FromModel(path=str(path))

    assert geometry_of(written(1), 1).map_shape((8, 8)) == (8, 8, 2)
    earlier = path.stat().st_mtime_ns
    backbone = written(2)
    os.utime(path, ns=(earlier + 10**9, earlier + 10**9))  # Not within one tick of the clock.
    assert geometry_of(backbone, 1).map_shape((8, 8)) == (4, 4, 2)


def test_it_keeps_a_few() -> None:
    for channels in range(1, MOST_KEPT + 3):
        geometry_of(SMALL, channels)
    assert len(geometry._kept) == MOST_KEPT


def test_each_answer_is_found_once(monkeypatch: pytest.MonkeyPatch) -> None:
    found = Geometry(SMALL, 1)
    cells = np.ones((4, 4), bool)
    first = found.map_shape((8, 8)), found.seen_pixels(cells, (8, 8)).tolist(), found.receptive_field
    # 3×3 with stride 1, and 3×3 with stride 2: 1 + 2 + 2 = 5 px.
    assert first[0] == (4, 4, 8)
    assert first[1] == [[True] * 8] * 8
    assert first[2] is not None
    assert first[2].size == (5, 5)
    monkeypatch.setattr(found, "_extractor", None)
    monkeypatch.setattr(found, "_reach", None)
    assert (found.map_shape((8, 8)), found.seen_pixels(cells, (8, 8)).tolist(), found.receptive_field) == first
