"""The `digits` builder: what TFDS asks of a builder, and that its images are scikit-learn's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from sklearn.datasets import load_digits

from pipeline.data.digits.digits_dataset_builder import Builder


@pytest.fixture(scope="module")
def builder(tmp_path_factory: pytest.TempPathFactory) -> Builder:
    """The builder, prepared in a directory of its own."""
    prepared = Builder(data_dir=tmp_path_factory.mktemp("tfds"))
    prepared.download_and_prepare()
    return prepared


def _arrays(builder: Builder, split: str) -> tuple[np.ndarray, np.ndarray]:
    examples = tfds.as_numpy(builder.as_dataset(split=split, batch_size=-1))
    return examples["image"], examples["label"]


def test_splits_have_fixed_sizes_and_classes(builder: Builder) -> None:
    # 1,797 images in all, a fifth rounded up for testing.
    assert {name: info.num_examples for name, info in builder.info.splits.items()} == {"train": 1437, "test": 360}
    assert builder.info.features["image"].shape == (8, 8, 1)
    assert builder.info.features["label"].num_classes == 10
    assert builder.info.supervised_keys == ("image", "label")


def test_the_split_is_stratified(builder: Builder) -> None:
    for split, share in (("train", 1437 / 1797), ("test", 360 / 1797)):
        counts = np.bincount(_arrays(builder, split)[1])
        assert np.all(np.abs(counts - np.bincount(load_digits().target) * share) < 1)


def test_the_images_are_scikit_learns_each_exactly_once(builder: Builder) -> None:
    digits = load_digits()
    # 17 gray levels, 0 to 16, spread over 0 to 255.
    expected = sorted(
        (np.round(image * 255 / 16).astype(np.uint8).tobytes(), int(label))
        for image, label in zip(digits.images, digits.target, strict=True)
    )
    found = sorted(
        (image.tobytes(), int(label))
        for split in ("train", "test")
        for image, label in zip(*_arrays(builder, split), strict=True)
    )
    assert found == expected


def test_a_second_preparation_gives_the_same_files(builder: Builder, tmp_path: Path) -> None:
    again = Builder(data_dir=tmp_path)
    again.download_and_prepare()
    for split in ("train", "test"):
        first, second = (made.info.splits[split].filepaths[0].read_bytes() for made in (builder, again))
        assert first == second


def test_tfds_knows_it_by_name() -> None:
    assert "digits" in tfds.list_builders()
