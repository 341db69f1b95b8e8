"""TFDS builder for scikit-learn's copy of the UCI optical recognition of handwritten digits (test part)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds

TEST_EXAMPLES = 360
"""One fifth of 1,797, rounded up."""
SPLIT_SEED = 0
"""Fixes which examples are the test split, for every version of this dataset."""


class Builder(tfds.core.GeneratorBasedBuilder):
    """1,797 grayscale digits, 8×8 px, in a fixed stratified split of 1,437 for training and 360 for testing."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: ClassVar[dict[str, str]] = {"1.0.0": "Initial release."}

    def _info(self) -> tfds.core.DatasetInfo:
        return self.dataset_info_from_configs(
            description=(
                "The 1,797 images of handwritten digits that ship with scikit-learn, 8x8 pixels. The original's 17 "
                "gray levels 0 to 16 are spread over 0 to 255. Train and test are a fixed stratified split."
            ),
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(8, 8, 1), dtype=np.uint8, encoding_format="png"),
                    "label": tfds.features.ClassLabel(num_classes=10),
                }
            ),
            supervised_keys=("image", "label"),
            homepage="https://archive.ics.uci.edu/dataset/80",
            citation=(
                "@misc{alpaydin1998optical, title={Optical Recognition of Handwritten Digits}, "
                "author={Alpaydin, E. and Kaynak, C.}, year={1998}, publisher={UCI Machine Learning Repository}}"
            ),
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split

        digits = load_digits()
        train, test = train_test_split(
            np.arange(len(digits.target)),
            test_size=TEST_EXAMPLES,
            stratify=digits.target,
            random_state=SPLIT_SEED,
        )
        return {
            "train": self._generate_examples(digits.images, digits.target, np.sort(train)),
            "test": self._generate_examples(digits.images, digits.target, np.sort(test)),
        }

    def _generate_examples(
        self, images: np.ndarray, labels: np.ndarray, indices: np.ndarray
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        for index in indices:
            # 17 levels, 0 to 16: 255 / 16 is the widest spread that keeps black and white exact.
            image = np.round(images[index] * (255 / 16)).astype(np.uint8)
            yield int(index), {"image": image[..., np.newaxis], "label": int(labels[index])}
