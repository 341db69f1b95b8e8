"""Test images that are made once for the runs of a process."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from pipeline.common.bounded import Bounded
from pipeline.common.condition import AS_IS, Mode
from pipeline.data import source
from pipeline.data.batches import Data
from pipeline.data.settings import Dataset
from pipeline.data.splits import DecodedSplit
from pipeline.heads.global_pools import GlobalAveragePool
from pipeline.models.backbones.small import SmallFcn
from pipeline.other_sizes import made_maps
from pipeline.other_sizes.made_maps import MadeMaps
from pipeline.other_sizes.plan import SizePlan
from pipeline.other_sizes.settings import SizeProbe


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Data:
    dataset = Dataset(name="digits", version="1.0.0", image_size=[8, 8])
    return source.load(dataset, 0, tmp_path_factory.mktemp("cache"))


@pytest.fixture(autouse=True)
def nothing_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(made_maps, "_kept_images", Bounded(made_maps.MOST_SIZES))


def _images(data: Data, size: int, images: int = 20, **probe: int) -> dict[Mode, np.ndarray]:
    """What an extractor is shown that hands on its images."""
    plan = SizePlan(SmallFcn(), GlobalAveragePool(), data.facts)
    settings = SizeProbe(sizes=[size], **{"batch_size": 64, **probe})  # type: ignore[arg-type]
    maps = MadeMaps(data.test_split, np.arange(images), plan, settings, features=None)
    found: dict[Mode, list[np.ndarray]] = {mode: [] for mode in Mode}
    for _, mode, shown in maps.of({AS_IS: tf.identity}, (size, size)):
        found[mode].append(shown.numpy())
    return {mode: np.concatenate(batches) for mode, batches in found.items()}


@pytest.mark.long
def test_the_second_run_gets_the_images_of_the_first_and_other_images_are_made(
    digits: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = _images(digits, 12)
    assert first[Mode.CANVAS].shape == (20, 12, 12, 1)
    read: list[np.ndarray] = []
    in_order = DecodedSplit.in_order

    def counted(split: DecodedSplit, indices: np.ndarray, batch_size: int) -> tf.data.Dataset:
        read.append(indices)
        return in_order(split, indices, batch_size)

    monkeypatch.setattr(DecodedSplit, "in_order", counted)
    for mode, images in _images(digits, 12).items():
        assert np.array_equal(images, first[mode])
    assert not read
    assert not np.array_equal(_images(digits, 12, seed=1)[Mode.CANVAS], first[Mode.CANVAS])
    assert _images(digits, 16)[Mode.RESIZE].shape == (20, 16, 16, 1)
    assert len(_images(digits, 12, images=21)[Mode.RESIZE]) == 21
    assert len(read) == 3


@pytest.mark.long
def test_no_more_is_kept_than_there_may_be(digits: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(made_maps, "_kept_images", Bounded(2))
    for size in (9, 10, 11):
        _images(digits, size)
    assert len(made_maps._kept_images) == 2
    # Two modes of 20 images of 12×12 px are 5,760 bytes.
    monkeypatch.setattr(made_maps, "MOST_BYTES", 2 * 20 * 12 * 12 - 1)
    monkeypatch.setattr(made_maps, "_kept_images", Bounded(made_maps.MOST_SIZES))
    _images(digits, 12)
    assert len(made_maps._kept_images) == 0
