"""Which images are held out: each class its share, in whole numbers."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.data.validation import hold_out, most_held_out, share_by_class

SHARES = [
    # Remainders: 10 · 52 / 100 = 5.2, 10 · 30 / 100 = 3.0, 10 · 18 / 100 = 1.8, whose .8 gets what is left.
    ([52, 30, 18], 10, [5, 3, 2]),
    # 20 · 200 / 203 = 19.7 and 20 · 3 / 203 = 0.3 would be 20 and 0.
    ([200, 3], 20, [19, 1]),
    # A class of one keeps it; 5 · 7 / 10 = 3.5, and what the others cannot give is taken from the largest.
    ([1, 1, 1, 7], 5, [0, 0, 0, 5]),
    # 5 · 6 / 12 = 2.5, and 0.83 of each of two: one for each of these, the rest for the largest.
    ([6, 2, 2, 2], 5, [2, 1, 1, 1]),
    # As many as can be: all but one of each.
    ([9, 1, 3], 10, [8, 0, 2]),
    # One for three classes: the largest.
    ([2, 9, 2], 1, [0, 1, 0]),
    ([5, 5], 0, [0, 0]),
]


@pytest.mark.parametrize(("counts", "held_out", "expected"), SHARES)
def test_each_class_has_its_share(counts: list[int], held_out: int, expected: list[int]) -> None:
    for seed in range(5):
        assert share_by_class(np.array(counts), held_out, np.random.default_rng(seed)).tolist() == expected


def test_the_seed_decides_between_classes_that_are_alike() -> None:
    # 3 images for 4 classes of 5: three classes have one.
    shares = {tuple(share_by_class(np.full(4, 5), 3, np.random.default_rng(seed)).tolist()) for seed in range(50)}
    assert shares == {(0, 1, 1, 1), (1, 0, 1, 1), (1, 1, 0, 1), (1, 1, 1, 0)}


def test_shares_keep_their_sum_and_their_bounds() -> None:
    generator = np.random.default_rng(0)
    for _ in range(300):
        counts = generator.integers(1, generator.integers(2, 40), generator.integers(1, 20))
        held_out = int(generator.integers(0, np.sum(counts - 1) + 1))
        share = share_by_class(counts, held_out, generator)
        assert share.sum() == held_out
        assert np.all((share >= 0) & (share < counts))
        several = counts > 1
        assert np.sum(share[several] > 0) == min(held_out, several.sum())


def test_images_are_drawn_by_the_seed_alone() -> None:
    labels = np.array(
        [7, 3, 7, 3, 7, 7, 3, 7]
    )  # Five and three: 4 held out are 2.5 and 1.5, a tie that is 3 and 1 or 2 and 2.
    train, held_out = hold_out(labels, 4, seed=1)
    assert np.array_equal(np.sort(np.concatenate([train, held_out])), np.arange(8))
    assert (train.tolist(), held_out.tolist()) == (sorted(train), sorted(held_out))
    assert all(np.array_equal(*pair) for pair in zip(hold_out(labels, 4, seed=1), (train, held_out), strict=True))
    assert len({tuple(hold_out(labels, 4, seed)[1]) for seed in range(20)}) > 1
    assert most_held_out(labels) == 8 - 2
    assert hold_out(labels, 0, seed=1)[0].tolist() == list(range(8))
