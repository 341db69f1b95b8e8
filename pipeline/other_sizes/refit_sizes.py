"""The last Dense layer of a trained head, fitted again for each probed size and mode, or for all sizes of a mode."""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np
import tensorflow as tf

from pipeline.common.condition import AS_IS, Mode
from pipeline.common.size import Size
from pipeline.data.batches import Data
from pipeline.models.backbones.base import ImageSizeError
from pipeline.models.features import FeatureMaps
from pipeline.models.predict import compiled
from pipeline.models.traced import Function
from pipeline.other_sizes.made_maps import MadeMaps
from pipeline.other_sizes.plan import SizePlan
from pipeline.other_sizes.refit import MOST_NUMBERS, Classifier, Refittable, drawn, fit_classifier
from pipeline.other_sizes.settings import SizeProbe
from pipeline.other_sizes.ways.base import RefitWay

log = logging.getLogger("pipeline")


class RefittedHeads:
    """Heads whose last Dense layer is fitted on training images, for each probed size; nothing else is looked at.

    The features of one size are in memory at a time, and for fits on all sizes `MOST_NUMBERS` in each mode: of more,
    each size gives a share of its images, drawn by the seed.

    Args:
        cut: The trained head, from maps (N, ?, ?, F), before its last Dense layer.
        ways: The ways that are measured.
        extract: The backbone.
        data: Where the training images come from.
        plan: Of backbone and head.
        probe: Which sizes, how many images.
        features: Where the backbone's feature maps are kept; None computes them.
    """

    def __init__(
        self,
        cut: Refittable,
        ways: Sequence[RefitWay],
        extract: Function,
        data: Data,
        plan: SizePlan,
        probe: SizeProbe,
        features: FeatureMaps | None,
    ) -> None:
        self._cut, self._ways, self._plan = cut, ways, plan
        self._native = None if data.facts.natural else data.facts.image_size
        self._features_of = compiled(cut.features)
        self._models = {(way.name, mode): cut.model(cut.classifier) for way in ways for mode in Mode}
        self._fitted: dict[tuple[str, Mode, Size | None], Classifier] = {}
        self._sizes = list(filter(self._takes, probe.image_sizes(data.facts.image_size)))
        labels = data.train_split.labels[data.train_indices]
        most = MOST_NUMBERS // len(cut.classifier.kernel)
        count = most if probe.refit_images is None else min(most, probe.refit_images)
        indices = data.train_indices[drawn(labels, count, probe.seed)]
        maps = MadeMaps(data.train_split, indices, plan, probe, features)
        started = time.monotonic()
        self._fit(maps, data.train_split.labels[maps.order], extract, probe.seed)
        log.info(
            "  refitted at %d sizes on %s training images in %.1f s",
            *(len(self._sizes), f"{len(indices):,}", time.monotonic() - started),
        )

    def at(self, size: Size) -> dict[str, Mapping[Mode, Function]]:
        """Logits of maps of images of a size made in each mode, by the names of the ways; until it is called again."""
        found: dict[str, Mapping[Mode, Function]] = {}
        for way in self._ways:
            if size not in self._sizes or (size == self._native and not way.for_all_sizes):
                continue
            for mode in Mode:
                fitted = self._fitted[way.name, mode, None if way.for_all_sizes else size]
                self._models[way.name, mode].layers[-1].set_weights([fitted.kernel, fitted.bias])
            found[way.name] = {mode: compiled(self._models[way.name, mode]) for mode in Mode}
        return found

    def _takes(self, size: Size) -> bool:
        """Whether backbone and head make features of images of a size, and other ones of other maps."""
        try:
            shape = self._plan.geometry.map_shape(size)
            if not self._cut.leaves_cells(shape[:2]):
                return False
            maps = np.random.default_rng(0).random((2, *shape), np.float32)
            first, second = self._features_of(maps).numpy()
            return bool(np.isfinite(first).all() and np.any(first != second))
        except (ImageSizeError, ValueError, tf.errors.InvalidArgumentError):
            return False

    def _fit(self, maps: MadeMaps, labels: np.ndarray, extract: Function, seed: int) -> None:
        width = len(self._cut.classifier.kernel)
        of_one = [way.name for way in self._ways if not way.for_all_sizes]
        of_all = [way.name for way in self._ways if way.for_all_sizes]
        kept: dict[Mode, list[np.ndarray]] = defaultdict(list)
        kept_labels: list[np.ndarray] = []
        for number, size in enumerate(self._sizes):
            if size == self._native and not of_all:
                continue
            batches: dict[Mode, list[np.ndarray]] = defaultdict(list)
            for _, mode, feature_map in maps.of({AS_IS: extract}, size):
                batches[mode].append(tf.cast(self._features_of(feature_map), tf.float32).numpy())
            share = drawn(labels, MOST_NUMBERS // (width * len(self._sizes)), seed + number)
            for mode in Mode:
                features = np.concatenate(batches.pop(mode))
                if size != self._native:
                    for name in of_one:
                        self._fitted[name, mode, size] = fit_classifier(features, labels, self._cut.classifier)
                if of_all:
                    kept[mode].append(features[share])
            kept_labels.append(labels[share])
        for name in of_all:
            for mode in Mode:
                features = np.concatenate(kept.pop(mode))
                self._fitted[name, mode, None] = fit_classifier(
                    features, np.concatenate(kept_labels), self._cut.classifier
                )
