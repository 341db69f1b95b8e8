"""Feature maps of a frozen backbone: computed once, by what decides them, and within the room that they may take."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from pipeline.data.splits import DecodedSplit
from pipeline.models.backbones.base import FeatureCache
from pipeline.models.backbones.small import SmallFcn
from pipeline.models.features import FeatureMaps, NoRoomError

IMAGES = np.random.default_rng(0).integers(0, 256, (600, 8, 8, 1), np.uint8)
SPLIT = DecodedSplit("train", "digest of the split", IMAGES, np.arange(600) % 10)
BYTES = 600 * 4 * 4 * 8 * 4
"""Of the maps, 4×4 cells with 8 channels in float32: 307,200."""


def _settings(kept_as: FeatureCache = FeatureCache.float32, gigabytes: float = 20.0) -> SmallFcn:
    return SmallFcn(filters=[8, 8], strides=[1, 2], trainable=False, feature_cache=kept_as, feature_cache_gb=gigabytes)


def _built(seed: int = 0) -> keras.Model:
    keras.utils.set_random_seed(seed)
    return _settings().build(1)


def _none() -> Iterator[tf.Tensor]:
    pytest.fail("computed again")
    yield


def _sets(directory: Path) -> list[Path]:
    return sorted(path for path in directory.iterdir() if path.is_dir())


def test_maps_are_what_the_backbone_gives_and_are_computed_once(tmp_path: Path) -> None:
    backbone = _built()
    maps = FeatureMaps(_settings(), backbone, "code", tmp_path).split(SPLIT)
    assert (maps.name, maps.digest) == ("train", "digest of the split")
    assert (str(maps.images.dtype), maps.images.shape) == ("float32", (600, 4, 4, 8))
    assert isinstance(maps.images.base, np.memmap)
    assert maps.labels is SPLIT.labels
    # In batches of 256 there, and all at once here.
    assert np.abs(maps.images - backbone(IMAGES, training=False).numpy()).max() < 1e-5
    batches = list(maps.in_order(np.array([3, 5, 599]), 2).as_numpy_iterator())
    assert [labels.tolist() for _, labels in batches] == [[3, 5], [9]]
    assert np.array_equal(np.concatenate([images for images, _ in batches]), maps.images[[3, 5, 599]])

    again = FeatureMaps(_settings(gigabytes=1), _built(), "code", tmp_path)
    assert np.array_equal(again.of(("digest of the split", "8×8"), (600, 4, 4, 8), _none), maps.images)
    assert len(_sets(tmp_path)) == 1


@pytest.mark.parametrize("other", ["weights", "code", "images", "numbers"])
def test_what_decides_a_map_decides_whether_it_is_computed(other: str, tmp_path: Path) -> None:
    FeatureMaps(_settings(), _built(), "code", tmp_path).split(SPLIT)
    settings = _settings(FeatureCache.float16 if other == "numbers" else FeatureCache.float32)
    backbone = _built(seed=1 if other == "weights" else 0)
    split = DecodedSplit("train", "other images" if other == "images" else SPLIT.digest, IMAGES, SPLIT.labels)
    FeatureMaps(settings, backbone, "other code" if other == "code" else "code", tmp_path).split(split)
    assert len(_sets(tmp_path)) == 2


def test_maps_used_longest_ago_make_room_and_what_is_in_use_stays(tmp_path: Path) -> None:
    # Room for two and a half: 768,000 bytes.
    def features() -> FeatureMaps:
        return FeatureMaps(_settings(gigabytes=2.5 * BYTES / 1e9), _built(), "code", tmp_path)

    def compute(name: str, features: FeatureMaps, images: int = 600) -> Path:
        before = set(_sets(tmp_path))
        features.of((name,), (images, 4, 4, 8), lambda: iter([tf.zeros((images, 4, 4, 8))]))
        (made,) = set(_sets(tmp_path)) - before
        return made

    own = features()
    first, second = compute("first", own), compute("second", own)
    for age, path in ((100, second), (50, first)):
        os.utime(path, (path.stat().st_atime, path.stat().st_mtime - age))
    with pytest.raises(NoRoomError, match=r"0\.3 MB \(backbone\.feature_cache_gb=0\.000768\)"):
        compute("third", own)
    with pytest.raises(NoRoomError, match=r"0\.8 MB"):  # It never fits: nothing makes room for it.
        compute("too large", features(), images=1600)
    assert set(_sets(tmp_path)) == {first, second}
    third = compute("third", features())
    assert set(_sets(tmp_path)) == {first, third}
    # What another process is writing counts, and is no one's to remove.
    writing = tmp_path / "incomplete-x" / "x"
    writing.mkdir(parents=True)
    (writing / "maps.npy").write_bytes(bytes(BYTES))
    fourth = compute("fourth", features())
    assert set(_sets(tmp_path)) == {fourth, writing.parent}


def test_numbers_too_large_for_float16_are_refused_and_leave_nothing(tmp_path: Path) -> None:
    half = FeatureMaps(_settings(FeatureCache.float16), _built(), "code", tmp_path)
    largest = 65504.0  # 2¹⁶ − 2⁵
    kept = half.of(("within",), (1, 1, 1, 1), lambda: [tf.fill((1, 1, 1, 1), largest)])
    assert (str(kept.dtype), kept.item()) == ("float16", largest)
    with pytest.raises(NoRoomError, match=r"numbers of up to 6\.55e\+04 do not fit into float16"):
        half.of(("beyond",), (1, 1, 1, 1), lambda: [tf.fill((1, 1, 1, 1), 65536.0)])
    # 0.1 is between two of them; what is beyond stays as it is, and so does what never was a number.
    assert half.rounded(tf.constant([0.1, 65536.0, np.nan])).numpy() == pytest.approx(
        [np.float16(0.1), 65536.0, np.nan], abs=0, nan_ok=True
    )
    assert len(_sets(tmp_path)) == 1


def test_without_room_on_the_disk_it_is_told(tmp_path: Path) -> None:
    large = FeatureMaps(_settings(gigabytes=1e9), _built(), "code", tmp_path)
    with pytest.raises(NoRoomError, match=rf"4,000,000,000\.0 MB \(free: .* MB in {tmp_path}\)"):
        large.of(("many",), (10**9, 100, 100, 100), _none)
