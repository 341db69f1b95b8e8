"""Training a head on feature maps that are computed once, where the backbone before it is frozen."""

from __future__ import annotations

import dataclasses
import logging
from dataclasses import dataclass
from pathlib import Path

import keras

from pipeline.data.batches import Data
from pipeline.data.splits import StreamedSplit
from pipeline.models.backbones.base import Backbone, FeatureCache
from pipeline.models.features import FeatureMaps, NoRoomError
from pipeline.training.settings import Strategy, Training

log = logging.getLogger("pipeline")


@dataclass(frozen=True)
class Fitting:
    """What is fitted.

    Attributes:
        model: The whole model, or its head alone.
        data: Images, or feature maps in their place.
        features: Where these are kept; None without any.
    """

    model: keras.Model
    data: Data
    features: FeatureMaps | None = None


def fitting_of(
    model: keras.Model, backbone: Backbone, training: Training, data: Data, made_by: str, directory: Path
) -> Fitting:
    """What has to be fitted to train a model: its head on feature maps, if each image has the same one in each epoch.

    Args:
        model: As `build_model` made it, with its weights.
        backbone: The backbone's configuration.
        training: The knobs.
        data: The images.
        made_by: See `FeatureMaps`.
        directory: Likewise.
    """
    whole = Fitting(model, data)
    if backbone.trainable or backbone.feature_cache is FeatureCache.none:
        return whole
    if (why := _why_not(model.get_layer("backbone"), training, data)) is not None:
        log.info("  the frozen backbone runs in each step: %s", why)
        return whole
    features = FeatureMaps(backbone, model.get_layer("backbone"), made_by, directory)
    try:
        train, test = features.split(data.train_split), features.split(data.test_split)
    except NoRoomError as error:
        # Rounded maps and others are not to be compared.
        backbone.require(
            "feature_cache",
            backbone.feature_cache is FeatureCache.float32,
            f"keeps feature maps rounded, and there is no room for these: {error}",
            "Use backbone.feature_cache=float32 or none.",
        )
        log.warning("  the frozen backbone runs in each step: there is no room for its feature maps, %s", error)
        return whole
    facts = dataclasses.replace(data.facts, image_shape=train.images.shape[1:])
    maps = dataclasses.replace(data, facts=facts, train_split=train, test_split=test)
    # Not the head itself, which would be recorded within the model with an optimizer of its own.
    head = model.get_layer("head")
    return Fitting(keras.Model(head.inputs, head.outputs, name=head.name), maps, features)


def _why_not(backbone: keras.Model, training: Training, data: Data) -> str | None:
    """Why an image's map is not the same in each epoch, or cannot be kept; None if it is and can."""
    if len(backbone.variables) > len(backbone.weights):  # The states of random generators are no weights.
        return "it has layers that draw at random, such as dropout"
    if training.sizes is not None:
        return "training.sizes resizes each batch"
    if training.augmentation.is_on:
        return "training.augmentation changes each image"
    if training.strategy is not Strategy.none:
        return f"training.strategy={training.strategy.value}"
    if data.facts.natural:
        return "dataset.native_size=true"
    if isinstance(data.train_split, StreamedSplit):
        return "dataset.cache=none keeps nothing"
    return None
