"""The last Dense layer of a trained model, fitted again on the features of images of other sizes.

All other weights stay. Source: Touvron, Vedaldi, Douze, Jégou, "Fixing the train-test resolution discrepancy", 2019,
section 3.3, which fine-tunes the classifier at the resolution of the test. Of fixed features this is multinomial
logistic regression, a convex problem, so that nothing is drawn and no step size is chosen.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

import keras
import numpy as np
from keras import KerasTensor
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits

from pipeline.common.size import Size
from pipeline.data.validation import hold_out, most_held_out
from pipeline.heads.base import POOLING_DTYPE
from pipeline.models.graph import Call, LayerRefusesError, calls, is_graph, operation_text
from pipeline.models.runs import Runs
from pipeline.other_sizes.parts import NotRecognizedError
from pipeline.other_sizes.take_apart import take_apart
from pipeline.other_sizes.ways.global_pool import GrowingWindow
from pipeline.other_sizes.ways.resize_map import ResizeMap

log = logging.getLogger("pipeline")

INVERSE_STRENGTH = 1.0
"""C of scikit-learn: so the sum of the cross-entropies is weighed against half the sum of the squared weights, which
are of features with variance 1."""
TOLERANCE = 1e-4
"""The largest derivative of the mean cross-entropy by a weight at which the fit ends."""
MOST_STEPS = 1000
NEVER = 30.0
"""By so much the logit of a class without images is below the mean of the others: a probability below 1e-13."""
MOST_NUMBERS = 2**25
"""Features kept at a time, of one mode and in float32: 134 MB, and four times as much again while they are fitted."""


@dataclass(frozen=True)
class Classifier:
    """What makes logits (N, K) of features (N, F): `features @ kernel + bias`.

    Attributes:
        kernel: float32 (F, K).
        bias: float32 (K,).
    """

    kernel: np.ndarray
    bias: np.ndarray


@dataclass(frozen=True)
class Refittable:
    """A trained model, cut before its last Dense layer.

    Attributes:
        features: From images (N, ?, ?, C) to features (N, F). It shares the weights of the model.
        classifier: The trained weights of the last Dense layer.
        activation: Of its logits: the identity or a softmax.
    """

    features: keras.Model
    classifier: Classifier
    activation: str

    def leaves_cells(self, size: Size) -> bool:
        """Whether images of a size in pixels leave it a map: TensorFlow makes any numbers of one without cells."""
        return Runs(self.features).is_left(size)

    def model(self, classifier: Classifier) -> keras.Model:
        """The model from images (N, ?, ?, C) to outputs (N, K) with another last Dense layer."""
        dense = keras.layers.Dense(len(classifier.bias), self.activation, dtype=POOLING_DTYPE, name="refitted")
        model = keras.Model(self.features.inputs, dense(self.features.outputs[0]))
        dense.set_weights([classifier.kernel, classifier.bias])
        return model


def cut_before_last_dense(model: keras.Model, image_size: Size) -> Refittable:
    """Cuts a model before its last Dense layer; what comes before it is made to take images of any size.

    The mean of class maps is cut too: a 1×1 convolution is a Dense layer on each cell, and the mean of what it makes is
    what it makes of the mean.

    Args:
        model: From images (N, H, W, C) or (N, ?, ?, C) to logits or probabilities (N, K).
        image_size: Height and width in pixels that it was trained on.

    Raises:
        NotRecognizedError: It has no such layer, or its features are not defined for images of other sizes.
    """
    if not is_graph(model):
        raise NotRecognizedError(f"The model is a {type(model).__name__}, which computes by code of its own.")
    model = _for_any_size(model, image_size)
    images = keras.Input((None, None, model.input_shape[-1]), dtype=model.inputs[0].dtype)
    try:
        used = calls(model, images)
    except LayerRefusesError as error:
        raise NotRecognizedError(
            f"Its features are for images of one size: {operation_text(error.operation)} cannot take others."
        ) from error
    activation = _ending(used)
    vector, kernel, bias = _last_dense(used)
    if vector.ndim != 2 or vector.shape[1] is None:
        raise NotRecognizedError(f"How many features it has depends on the size of the image: {vector.shape}.")
    if kernel.shape[1] < 2:
        raise NotRecognizedError("It has one output, and logistic regression gives one a class.")
    return Refittable(keras.Model(images, vector), Classifier(kernel, bias), activation)


def _for_any_size(model: keras.Model, image_size: Size) -> keras.Model:
    """The model as it is run at other sizes in the way that keeps its features, if it needs one for that."""
    with suppress(NotRecognizedError):
        parts = take_apart(model, image_size)
        for way in (GrowingWindow(), ResizeMap()):
            if way.is_for(parts):
                return way.convert(model, parts, image_size)
    return model


def _ending(used: list[Call]) -> str:
    """Takes what comes after the last weights off the end of `used`; returns what it does to the logits."""
    found = "linear"
    while used and isinstance(used[-1].operation, keras.layers.Activation | keras.layers.Softmax):
        layer = used.pop().operation
        if isinstance(layer, keras.layers.Softmax):
            found = "softmax"
        else:
            found = _of_logits(layer) if found == "linear" else found
    if used and getattr(used[-1].operation, "activation", None) is not None:
        own = _of_logits(used[-1].operation)
        found = own if found == "linear" else found
    return found


def _of_logits(layer: keras.Operation) -> str:
    name = keras.activations.serialize(layer.activation)
    if name not in ("linear", "softmax"):
        raise NotRecognizedError(
            f"{operation_text(layer)} makes {name} of its numbers: they are neither logits nor a softmax of them."
        )
    return str(name)


def _last_dense(used: Sequence[Call]) -> tuple[KerasTensor, np.ndarray, np.ndarray]:
    """Features (N, F), kernel (F, K) and bias (K,) of the layer at the end of `used`."""
    last = used[-1] if used else None
    if last is not None and isinstance(last.operation, keras.layers.Dense) and last.input is not None:
        kernel, *bias = last.operation.get_weights()
        return last.input, kernel, bias[0] if bias else np.zeros(kernel.shape[1], np.float32)
    pooled = used[-2] if len(used) > 1 and isinstance(used[-1].operation, keras.layers.Flatten) else last
    maps = next((call for call in used if pooled is not None and call.output is pooled.input), None)
    if (
        pooled is not None
        and isinstance(pooled.operation, keras.layers.GlobalAveragePooling2D)
        and maps is not None
        and maps.input is not None
        and isinstance(maps.operation, keras.layers.Conv2D)
        and (maps.operation.kernel_size, maps.operation.strides, maps.operation.groups) == ((1, 1), (1, 1), 1)
    ):
        if keras.activations.serialize(maps.operation.activation) != "linear":
            raise NotRecognizedError(
                f"{operation_text(maps.operation)} has an activation before the mean, so that it is no Dense layer."
            )
        kernel, *bias = maps.operation.get_weights()
        vector = keras.layers.GlobalAveragePooling2D(dtype=POOLING_DTYPE)(maps.input)
        return vector, kernel[0, 0], bias[0] if bias else np.zeros(kernel.shape[-1], np.float32)
    raise NotRecognizedError(
        f"{operation_text(last.operation) if last else 'The input'} is not a Dense layer, or the mean of 1×1 "
        "convolutions, that gives the outputs."
    )


def fit_classifier(
    features: np.ndarray, labels: np.ndarray, start: Classifier, inverse_strength: float = INVERSE_STRENGTH
) -> Classifier:
    """Multinomial logistic regression on features that are standardised for it; the classifier takes them as they are.

    Args:
        features: float32 (N, F).
        labels: int64 (N,), from 0 to K - 1. A class without images is never predicted.
        start: What the fit begins with; it has K classes. The minimum does not depend on it.
        inverse_strength: See `INVERSE_STRENGTH`.
    """
    mean, deviation = features.mean(axis=0, dtype=np.float64), features.std(axis=0, dtype=np.float64)
    deviation = np.where(deviation > 0, deviation, 1.0)
    present = np.unique(labels)
    kernel = np.zeros(start.kernel.shape)
    bias = np.zeros(len(start.bias))
    if len(present) > 1:
        regression = LogisticRegression(
            C=inverse_strength, tol=TOLERANCE, max_iter=MOST_STEPS, warm_start=len(present) > 2
        )
        if regression.warm_start:
            regression.coef_ = (start.kernel * deviation[:, np.newaxis]).T[present]
            regression.intercept_ = (start.bias + mean @ start.kernel)[present]
        standardised = ((features - mean) / deviation).astype(np.float32)
        # Of products as small as these, waiting for other threads takes most of the time: on two busy cores, 53 s with
        # two threads and 0.6 s with one, of 10,000 images and 64 features.
        with threadpool_limits(1, "blas"), warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", ConvergenceWarning)
            regression.fit(standardised, labels)
        if any(issubclass(warning.category, ConvergenceWarning) for warning in caught):
            log.warning("  a refit ended after %d steps, before its minimum", MOST_STEPS)
        weights, constants = regression.coef_.astype(np.float64), regression.intercept_.astype(np.float64)
        if len(present) == 2:  # The logit of the second class against the first, as one of each.
            weights, constants = np.concatenate([-weights, weights]) / 2, np.concatenate([-constants, constants]) / 2
        kernel[:, present] = weights.T / deviation[:, np.newaxis]
        bias[present] = constants - mean @ kernel[:, present]
    absent = np.setdiff1d(np.arange(len(bias)), present)
    kernel[:, absent] = kernel[:, present].mean(axis=1, keepdims=True)
    bias[absent] = bias[present].mean() - NEVER
    return Classifier(kernel.astype(np.float32), bias.astype(np.float32))


def drawn(labels: np.ndarray, most: int | None, seed: int) -> np.ndarray:
    """Positions, ascending, of at most `most` images drawn by the seed, of every class its share.

    All of them where `most` is None, or leaves fewer out than there are classes.
    """
    if most is None or most > most_held_out(labels):
        return np.arange(len(labels))
    return hold_out(labels, most, seed)[1]
