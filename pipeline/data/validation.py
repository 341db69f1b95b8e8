"""Which training images are held out for validation: of every class its share, drawn by the seed."""

from __future__ import annotations

import numpy as np


def hold_out(labels: np.ndarray, held_out: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the images that are trained on, and of the `held_out` validation images; both ascending.

    Args:
        labels: Of all images, (N,).
        held_out: How many images to hold out; at most `most_held_out`.
        seed: Draws them.
    """
    generator = np.random.default_rng(seed)
    shuffled = generator.permutation(len(labels))
    _, class_of, counts = np.unique(labels, return_inverse=True, return_counts=True)
    by_class = shuffled[np.argsort(class_of[shuffled], kind="stable")]
    place_in_class = np.arange(len(labels)) - np.repeat(np.cumsum(counts) - counts, counts)
    is_held_out = place_in_class < np.repeat(share_by_class(counts, held_out, generator), counts)
    return np.sort(by_class[~is_held_out]), np.sort(by_class[is_held_out])


def most_held_out(labels: np.ndarray) -> int:
    """How many of the images with these labels (N,) can be held out, if one of each class stays to be trained on."""
    return len(labels) - len(np.unique(labels))


def share_by_class(counts: np.ndarray, held_out: int, generator: np.random.Generator) -> np.ndarray:
    """How many images of each class are held out, (K,); together `held_out`.

    By largest remainders (Hamilton's method), but each class keeps an image to train on, and has one among those held
    out if it can spare it: 20 of 200 and 3 images would be 20 and 0 by remainders alone, and are 19 and 1. Where too
    few are held out for all classes, the larger ones come first. Scikit-learn's stratified splits round so too, but do
    without the rare class, and refuse one of a single image.

    Args:
        counts: Images of each class, (K,), at least 1.
        held_out: How many images to hold out; at most Σ (counts − 1).
        generator: Decides between classes that are alike.
    """
    order = generator.permutation(len(counts))
    counts = counts[order].astype(np.int64)
    total = counts.sum()
    least = np.zeros_like(counts)
    larger = np.argsort(-counts, kind="stable")[:held_out]
    least[larger] = counts[larger] > 1
    share = np.maximum(held_out * counts // total, least)
    while missing := held_out - share.sum():
        # Whole numbers, in which classes that are alike are equal: `total` times what each class lacks.
        lacking = np.sign(missing) * (held_out * counts - total * share)
        can_change = share < counts - 1 if missing > 0 else share > least
        share[np.argmax(np.where(can_change, lacking, np.iinfo(np.int64).min))] += np.sign(missing)
    placed = np.empty_like(share)
    placed[order] = share
    return placed
