"""What the steps of a training get: images, maybe augmented, with labels or shares of classes, maybe with weights."""

from __future__ import annotations

import os

import numpy as np
import tensorflow as tf

from pipeline.data.batches import Data
from pipeline.data.tf_data import PREFETCH_BATCHES, without_autotune
from pipeline.training.augmentation import augment
from pipeline.training.settings import ClassWeights, Training
from pipeline.training.step_sizes import sized_steps, steps_per_epoch


def train_batches(data: Data, training: Training, done: int = 0) -> tf.data.Dataset:
    """`Data.train` as the settings want it, without the epochs that are `done`.

    Images stay uint8. Labels are int64 (B,), or float32 (B, K) with `Training.has_soft_labels`. With class weights
    there is a third part, the weight of each image, float32 (B,): of a mixed one, the mean of its labels' weights by
    their shares.

    What is drawn for an image is a function of the seed, of the batch's number and of its place there, so that every
    head trains on the same images, and a training that goes on, on those that it would have had.
    """
    batches = data.train(training.batch_size, training.epochs, sized_steps(data, training), done)
    is_weighted = training.class_weights is ClassWeights.balanced
    if not (training.augmentation.is_on or training.has_soft_labels or is_weighted):
        return batches
    classes, smoothing = data.facts.classes, training.label_smoothing
    weights = tf.constant(balanced_weights(data.train_split.labels[data.train_indices], classes), tf.float32)

    def prepared(number: tf.Tensor, batch: tuple[tf.Tensor, tf.Tensor]) -> tuple[tf.Tensor, ...]:
        images, labels = batch
        images = tf.ensure_shape(images, (None, None, None, data.facts.channels))
        if training.has_soft_labels:
            labels = tf.one_hot(labels, classes)
        if training.augmentation.is_on:
            images, labels = augment(images, labels, training.augmentation, tf.stack([data.seed, number]))
        shares = labels if training.has_soft_labels else tf.one_hot(labels, classes)
        if smoothing > 0:
            labels = (1 - smoothing) * labels + smoothing / classes
        return (images, labels, tf.linalg.matvec(shares, weights)) if is_weighted else (images, labels)

    first = done * steps_per_epoch(data, training)
    mapped = batches.enumerate(first).map(prepared, num_parallel_calls=os.cpu_count(), deterministic=True)
    return without_autotune(mapped.prefetch(PREFETCH_BATCHES))


def validation_batches(data: Data, training: Training) -> tf.data.Dataset:
    """`Data.validation` with labels of the kind that training has, but neither smoothed nor weighted.

    So validation losses can be compared whatever the training loss is.
    """
    batches = data.validation(training.batch_size)
    if not training.has_soft_labels:
        return batches
    classes = data.facts.classes
    return without_autotune(batches.map(lambda images, labels: (images, tf.one_hot(labels, classes))))


def balanced_weights(labels: np.ndarray, classes: int) -> np.ndarray:
    """n / (K·nₖ) for each class, (classes,), so that every class counts alike and an image 1 in the mean.

    n images have labels of K classes, nₖ of them class k; classes without images get 0. As scikit-learn's
    `compute_class_weight("balanced")`.
    """
    counts = np.bincount(labels, minlength=classes)
    return np.divide(len(labels), np.count_nonzero(counts) * counts, out=np.zeros(classes), where=counts > 0)
