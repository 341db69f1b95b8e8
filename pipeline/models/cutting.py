"""Cuts the feature extractor out of a saved Keras model and rebuilds it, with its weights, for images of any size.

**Where it cuts.** At the last tensor (N, h, w, F) in the order in which the model runs, so before Flatten,
GlobalAveragePooling2D and Reshape to vectors. A map of 1×1 cells does not count where pooling the whole map made it
(AveragePooling2D or MaxPooling2D with that window, or global pooling with `keepdims`), nor does what 1×1 convolutions
and the like make of such a one: the cut is before that pooling, whose window would leave out a part of larger maps. Any
other 1×1 map counts, since a larger image makes it larger.

**How it rebuilds.** The layers up to the cut are called once more, on an input of unknown height and width; models
within the model are called layer by layer. The layers are the same objects, so the weights are those of the file.
"""

from __future__ import annotations

import logging
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from keras import KerasTensor

from pipeline.common.errors import ConfigError, first_line, require, suggestion
from pipeline.common.size import size_text
from pipeline.models.graph import (
    Call,
    LayerRefusesError,
    again,
    for_any_size,
    is_graph,
    operation_text,
    pools_whole_map,
)
from pipeline.models.keras_file import load_model
from pipeline.models.runs import Runs, larger_sizes

log = logging.getLogger("pipeline")

TOLERANCE = 1e-5
"""Largest difference between the rebuilt extractor's map and the model's own, relative to the map's largest value."""
_checked: set[tuple[Path, int, str | None]] = set()
"""What was checked and logged in this process: a run cuts its model several times, a sweep in every run."""


def extractor_of(path: Path, layer: str | None = None) -> keras.Model:
    """Loads a model and cuts out what computes its last feature map; logs where it cuts.

    Args:
        path: A `.keras` file.
        layer: Name of the layer to cut after, also of one in a model within the model; None for the rule above.

    Returns:
        The extractor from (N, ?, ?, C) to (N, ?, ?, F). Two calls share no weights.

    Raises:
        ConfigError: The file cannot be loaded without running code from it, or the model has no such map, or what
            computes the map works at one image size alone.
    """
    model = load_model(path, "backbone.path")
    _check_takes_images(model, path)
    whole, calls = again(model, keras.Input(model.inputs[0].shape[1:], dtype=model.inputs[0].dtype))
    cut = _last_map(whole, calls, path) if layer is None else _map_of(layer, calls, path)
    native = keras.Model(whole.input, cut.output)
    require(
        all(getattr(operation, "data_format", None) != "channels_first" for operation in native.operations),
        "backbone.path",
        path,
        "is a channels-first model (N, C, H, W)",
        "Build it with data_format='channels_last' and save it again.",
    )
    try:
        extractor = for_any_size(native)
        cutting = (path.absolute(), path.stat().st_mtime_ns, layer)
        if cutting not in _checked:
            _check_weights(native, path)
            _check_follows_size(native, path)
            _check_same_map(native, extractor, path)
            _check_runs_larger(native, extractor, path)
            where = operation_text(cut.operation)
            shapes = (_shape_text(native.output), _shape_text(native.input))
            log.info("%s: cut after %s, map %s of images %s", path, where, *shapes)
            _checked.add(cutting)
    except LayerRefusesError as error:
        raise ConfigError(
            "backbone.path",
            path,
            f"is not fully convolutional up to the cut: {operation_text(error.operation)} takes no image size but the "
            f"model's own, {_shape_text(native.input)}",
            "Cut before it with backbone.layer=NAME, or replace it in the model.",
        ) from error
    return extractor


def _check_takes_images(model: keras.Model, path: Path) -> None:
    inputs = getattr(model, "inputs", None) if is_graph(model) else None
    if inputs is None:
        raise ConfigError(
            "backbone.path",
            path,
            "is a subclassed model, or one that was never built: it holds no graph of layers to cut",
            "Save a functional model, or a Sequential that begins with keras.Input.",
        )
    shapes = [tensor.shape for tensor in inputs]
    require(
        len(shapes) == 1 and len(shapes[0]) == 4 and shapes[0][-1] is not None,
        "backbone.path",
        path,
        f"must take one batch of images (N, H, W, C); it takes {', '.join(map(str, shapes))}",
        "Save a model that takes images alone.",
    )


def _maps(whole: keras.Model, calls: list[Call]) -> list[Call]:
    """The calls whose output counts as a feature map by the rule of this module, in their order."""
    maps: list[Call] = []
    spatial = {id(whole.input)}
    for call in calls:
        if call.output is None or len(call.output.shape) != 4:
            continue
        looks_around = getattr(call.operation, "kernel_size", (1, 1)) != (1, 1)
        from_a_map = looks_around or any(id(tensor) in spatial for tensor in call.inputs)
        if call.output.shape[1:3] == (1, 1) and (pools_whole_map(call) or not from_a_map):
            continue
        spatial.add(id(call.output))
        maps.append(call)
    return maps


def _last_map(whole: keras.Model, calls: list[Call], path: Path) -> Call:
    """The call that makes the last feature map, which all that the model answers has to be made of."""
    maps = _maps(whole, calls)
    # Before the first weight there are only pixels.
    if not maps or not keras.Model(whole.input, maps[-1].output).weights:
        raise ConfigError(
            "backbone.path",
            path,
            "has no feature map (N, h, w, F): none of its tensors with height and width depends on a weight",
            "Use a model with convolutions.",
        )
    cut = maps[-1]
    around_it = {id(whole.input)}
    for call in calls:
        if call is not cut and any(id(tensor) in around_it for tensor in call.inputs):
            around_it |= {id(tensor) for tensor in call.outputs}
    require(
        all(id(output) not in around_it for output in whole.outputs),
        "backbone.path",
        path,
        "does not end in one feature map: what it answers depends on more than its last one, of "
        f"{operation_text(cut.operation)}",
        "Choose where to cut with backbone.layer=NAME; its last maps are those of "
        f"{', '.join(call.operation.name for call in maps[-3:])}.",
    )
    return cut


def _map_of(layer: str, calls: list[Call], path: Path) -> Call:
    """The last call of the layer of that name."""
    found = [call for call in calls if call.operation.name == layer]
    if not found:
        near = suggestion(layer, [call.operation.name for call in calls])
        raise ConfigError(
            "backbone.layer",
            layer,
            f"is not a layer of {path}",
            near or "model.summary(expand_nested=True) lists them.",
        )
    cut = found[-1]
    shapes = [tensor.shape for tensor in cut.outputs]
    require(
        len(shapes) == 1 and len(shapes[0]) == 4,
        "backbone.layer",
        layer,
        f"gives {', '.join(map(str, shapes))}, which is not a feature map (N, h, w, F)",
        "Use a layer before it, or null for the last feature map.",
    )
    return cut


def _check_weights(native: keras.Model, path: Path) -> None:
    require(
        all(np.isfinite(weights).all() for weights in native.get_weights()),
        "backbone.path",
        path,
        "has weights that are not finite numbers",
        "Save a model from before its training diverged.",
    )


def _check_follows_size(native: keras.Model, path: Path) -> None:
    """Refuses a map that does not grow with the image, before any computing.

    Raises:
        ConfigError: It does not.
        LayerRefusesError: A layer goes with one image size alone.
    """
    _, *size, channels = native.input.shape
    # Twice the height and three times the width: rows and columns cannot be taken for one another.
    sides = [side and side * factor for side, factor in zip(size, (2, 3), strict=True)]
    larger, _ = again(native, keras.Input((*sides, channels), dtype=native.input.dtype))
    before, after = native.output.shape[1:], larger.output.shape[1:]
    grows = all(
        more is None or (side is not None and more > side) for side, more in zip(before[:2], after[:2], strict=True)
    )
    require(
        grows and before[2] == after[2],
        "backbone.path",
        path,
        f"is not fully convolutional up to the cut: its map is {_shape_text(native.output)} for images "
        f"{_shape_text(native.input)} and {_shape_text(larger.output)} for images {_shape_text(larger.input)}",
        "Cut earlier with backbone.layer=NAME, or replace what fixes the size (Resizing, Reshape) in the model.",
    )


def _check_same_map(native: keras.Model, extractor: keras.Model, path: Path) -> None:
    """Refuses an extractor that computes another map than the model does at the model's own image size."""
    size = native.input.shape[1:]
    if None in size:
        return  # Built for any size already: nothing was changed.
    images = np.random.default_rng(0).integers(0, 256, (1, *size)).astype(np.float32)

    def run(model: keras.Model) -> np.ndarray:
        # Compiled for the sizes of its input, as training and the size probe do: some layers fail or differ only so.
        signature = tf.TensorSpec(model.input.shape, model.input.dtype)
        compiled = tf.function(lambda images: model(images, training=False)).get_concrete_function(signature)
        return np.asarray(compiled(tf.cast(images, signature.dtype)), np.float64)

    try:
        expected, received = run(native), run(extractor)
    except Exception as error:  # Each layer has its own way of failing.
        raise ConfigError(
            "backbone.path",
            path,
            f"cannot be run on images of unknown size: {first_line(error)}",
            "Cut earlier with backbone.layer=NAME, or replace what fails in the model.",
        ) from error
    difference, largest = np.abs(received - expected).max(), np.abs(expected).max()
    require(
        bool(difference <= TOLERANCE * largest),
        "backbone.path",
        path,
        f"gives another feature map when it is rebuilt for images of any size: at {_shape_text(native.input)} they "
        f"differ by {difference:.2g}, and the largest value is {largest:.2g}",
        "Use a model whose layers do not ask for the image's size.",
    )


def _check_runs_larger(native: keras.Model, extractor: keras.Model, path: Path) -> None:
    """Refuses an extractor that runs on no image larger than the model's own.

    One that runs on some, as a U-Net does on those of even sides, is refused at the others when these are asked for.
    """
    size = native.input.shape[1:3]
    if None in size:
        return  # It was trained on no size that is known here.
    sizes = larger_sizes(size)
    failures = Runs(extractor).failures(sizes)
    if len(failures) < len(sizes):
        return
    layer, before = failures[0].layer, failures[0].before
    raise ConfigError(
        "backbone.path",
        path,
        f"is not fully convolutional up to the cut: {layer or 'a layer'} takes no image size but the model's own, "
        f"{_shape_text(native.input)}; at {size_text(failures[0].size)} px: {failures[0].reason}",
        f"Cut before it with backbone.layer={before or 'NAME'}, or replace it in the model.",
    )


def _shape_text(tensor: KerasTensor) -> str:
    """`28×28×1` for shape (N, 28, 28, 1); unknown sizes are `?`."""
    return "×".join("?" if side is None else str(side) for side in tensor.shape[1:])
