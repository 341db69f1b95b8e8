"""Fits the last Dense layer of a trained model again on a user's images, and says what that changes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import keras
import numpy as np

from pipeline.common.errors import ConfigError, require, the_first_of
from pipeline.common.files import expanded
from pipeline.common.size import Size, of_shape, size_text
from pipeline.data import image_folder
from pipeline.data.settings import ImageFolder
from pipeline.data.splits import ImageSplit
from pipeline.models.keras_file import load_model, saved_model
from pipeline.other_sizes.parts import NotRecognizedError
from pipeline.other_sizes.refit import MOST_NUMBERS, Refittable, cut_before_last_dense, drawn, fit_classifier
from pipeline.other_sizes.ways.base import RefitWay

HELD_OUT = 0.2
"""Share of the images of each class that nothing is fitted on, where the directory does not have them apart."""
BATCH = 32


def refit_and_write(
    model: keras.Model, native: Size, way: RefitWay, heights: Sequence[int], images: str, output: Path
) -> Iterator[str]:
    """Fits, writes, and measures what was written on images that it was not fitted on.

    Images are read from their files at each size, as `dataset=image_folder` reads them.

    Args:
        model: The trained model, whose classes have the order of the names of the directory's folders.
        native: Height and width in pixels of the training images.
        way: For one size or for all of them.
        heights: Of images in pixels to fit it on; widths keep the shape of the training images. Where one fit is for
            all sizes, those of training are added.
        images: A directory with a folder a class, of which a part is held out, or such folders in `train` and `test`.
        output: The `.keras` file; an older one is replaced.

    Yields:
        A sentence for what it was fitted on, and for what it changes at each size.

    Raises:
        UserError: The model has no such layer, or the images or the file cannot be read or written. Nothing is written.
    """
    try:
        cut = cut_before_last_dense(model, native)
    except NotRecognizedError as error:
        raise ConfigError(
            "way", way.name, f"is not for this model. {error}", "Leave it out to see which are."
        ) from error
    sizes = [of_shape(native, height) for height in heights]
    fitted_on = sorted({*sizes, native}) if way.for_all_sizes else sizes
    most = MOST_NUMBERS // (len(cut.classifier.kernel) * len(fitted_on))
    features, labels = [], []
    for number, size in enumerate(fitted_on):
        left = cut.leaves_cells(size)
        require(left, "sizes", size_text(size), "no feature map is left of images of that size", "Use larger ones.")
        split = _read(images, size, cut)[0]
        indices = drawn(split.labels, most, number)
        features.append(_outputs(cut.features, split, indices, size))
        require(
            bool(np.ptp(features[-1], axis=0).any()),
            "sizes",
            size_text(size),
            "all images of that size have the same features",
            "Use larger ones.",
        )
        labels.append(split.labels[indices])
    fitted = fit_classifier(np.concatenate(features), np.concatenate(labels), cut.classifier)
    yield f"Fitted on {len(labels[0]):,} images of {images} at {', '.join(map(size_text, fitted_on))} px"
    with saved_model(cut.model(fitted), output, "output") as beside:
        refitted = load_model(beside, "output")
        for size in sorted({*sizes, native}):
            split = _read(images, size, cut)[1]
            yield _comparison(model, refitted, split, size, native)
    yield f"It is another model than the original, also at {size_text(native)} px."
    if not _are_apart(images):
        yield (
            "These images are held out of this fit alone. If the original was trained on them, the accuracies are too "
            f"high, those before the fit above all: put images that it never saw into {images}/test, others into train."
        )


def _read(images: str, size: Size, cut: Refittable) -> tuple[ImageSplit, ImageSplit]:
    """The images of a size to fit on, and those that are held out."""
    *_, channels = cut.features.input_shape
    classes = len(cut.classifier.bias)
    remedy = "Give a directory with a folder of image files for each class."
    require(channels in (1, 3), "model", f"{channels} channels", "image files have 1 or 3", "Use another way.")
    folder = expanded(images).absolute()
    require(folder.is_dir(), "images", images, "there is no such directory", remedy)
    dataset = ImageFolder(
        path=str(folder),
        image_size=list(size),
        channels=channels,
        validation_fraction=0.0,
        test_fraction=None if _are_apart(images) else HELD_OUT,
    )
    try:
        facts = image_folder.describe(dataset)
        splits = image_folder.open_splits(dataset, facts, folder)
    except ConfigError as error:
        # Not the remedy for settings that this command does not have.
        raise ConfigError("images", images, error.rule, "Mend that, or take these files out.") from error
    require(
        facts.classes == classes,
        "images",
        images,
        f"has {facts.classes} classes ({the_first_of(facts.class_names)}), and the model has {classes}",
        "Give a folder for each class of the model, whose names are in the order of its outputs.",
    )
    return splits


def _are_apart(images: str) -> bool:
    """Whether the directory has images to fit on and others."""
    folder = expanded(images).absolute()
    return (folder / "train").is_dir() and (folder / "test").is_dir()


def _outputs(model: keras.Model, split: ImageSplit, indices: np.ndarray, size: Size) -> np.ndarray:
    """What the model makes, float32 (N, F), of images of a split."""
    try:
        batches = [
            np.asarray(model(images.astype(model.inputs[0].dtype), training=False), np.float32)
            for images, _ in split.in_order(indices, BATCH).as_numpy_iterator()
        ]
    except Exception as error:  # Each layer has its own way of refusing a size.
        raise ConfigError(
            "sizes",
            size_text(size),
            f"the model cannot take images of that size: {type(error).__name__}",
            "Use larger ones.",
        ) from error
    outputs = np.concatenate(batches)
    require(
        bool(np.isfinite(outputs).all()),
        "sizes",
        size_text(size),
        "the model makes numbers of such images that are not finite",
        "Use larger ones.",
    )
    return outputs


def _comparison(model: keras.Model, refitted: keras.Model, split: ImageSplit, size: Size, native: Size) -> str:
    """What the fit changes at a size, in a sentence."""
    every = np.arange(len(split))
    after = _outputs(refitted, split, every, size).argmax(axis=1)
    of_training = ", the size of training," if size == native else ""
    text = f"At {size_text(size)} px{of_training} on {len(split):,} held-out images: accuracy "
    found = f"{np.mean(after == split.labels):.3f} after"
    if size != native and None not in model.input_shape[1:3]:
        return f"{text}{found}; the original refuses that size"
    before = _outputs(model, split, every, size).argmax(axis=1)
    return (
        f"{text}{np.mean(before == split.labels):.3f} before, {found}; "
        f"another class for {np.mean(before != after):.1%} of them"
    )
