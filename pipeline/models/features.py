"""Feature maps of a frozen backbone, each computed once for all heads, seeds and processes of an `output_dir`."""

from __future__ import annotations

import dataclasses
import errno
import logging
import math
import os
import shutil
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from filelock import FileLock

from pipeline.common.digest import digest_of, file_digest
from pipeline.common.files import INCOMPLETE, free_space, is_disk_full
from pipeline.data.made_once import begin_array, made_once, open_array
from pipeline.data.splits import DecodedSplit, ImageSplit
from pipeline.models.backbones.base import Backbone
from pipeline.models.geometry import geometry_of
from pipeline.models.predict import compiled

log = logging.getLogger("pipeline")

PIXELS_AT_ONCE = 2**20
"""At most in the images whose maps are computed together, as far as one image allows."""
MOST_AT_ONCE = 256
"""Images at most, however small."""


class NoRoomError(Exception):
    """Feature maps do not fit where they would be kept; says why."""


def _bytes_in(directory: Path) -> int:
    """Bytes of all files in a directory, of which some may be gone meanwhile."""
    total = 0
    for file in directory.rglob("*"):
        with suppress(FileNotFoundError):
            total += file.stat().st_size
    return total


def _last_used(directory: Path) -> float:
    try:
        return directory.stat().st_mtime
    except FileNotFoundError:
        return 0.0


class FeatureMaps:
    """Feature maps of a frozen backbone, memory-mapped.

    Args:
        settings: The backbone's configuration.
        backbone: What it builds, from uint8 (N, ?, ?, C) to (N, ?, ?, F), with the weights that it keeps.
        made_by: Digest of all else that decides what a map is: the code, and how images are read.
        directory: Where all backbones' maps are kept, each set of them in a directory of its own.
    """

    def __init__(self, settings: Backbone, backbone: keras.Model, made_by: str, directory: Path) -> None:
        self._type = np.dtype(settings.feature_cache.value)
        self._most_bytes = settings.feature_cache_gb * 1e9
        self._settings, self._backbone, self._directory = settings, backbone, directory
        deciding = dataclasses.asdict(settings) | {"feature_cache_gb": None}
        if settings.file is not None:  # Its content counts, wherever it lies.
            deciding |= {"path": None, "weights": None}
        self._made_by = digest_of(
            *(made_by, repr(deciding), keras.config.dtype_policy().name, keras.__version__, tf.__version__),
            # Two files may have the same weights in other layers.
            *(() if settings.file is None else (file_digest(settings.file),)),
            *backbone.get_weights(),
        )
        self._used: set[Path] = set()

    def split(self, split: ImageSplit) -> DecodedSplit:
        """The maps of a split, all of whose images have one size, with its labels; for what is raised see `of`."""
        height, width = split.size
        assert isinstance(height, int) and isinstance(width, int)
        extract = compiled(self._backbone)
        batch_size = max(1, min(MOST_AT_ONCE, PIXELS_AT_ONCE // (height * width)))

        def maps() -> Iterable[tf.Tensor]:
            log.info("  computing the feature maps of %s, once for all heads and seeds", split.name)
            for images, _ in split.in_order(np.arange(len(split)), batch_size).as_numpy_iterator():
                yield extract(images)

        shape = geometry_of(self._settings, self._backbone.input_shape[-1]).map_shape((height, width))
        kept = self.of((split.digest, f"{height}×{width}"), (len(split), *shape), maps)
        return DecodedSplit(split.name, split.digest, kept, split.labels)

    def of(
        self, images: tuple[str, ...], shape: tuple[int, ...], maps: Callable[[], Iterable[tf.Tensor]]
    ) -> np.ndarray:
        """Maps (N, h, w, F), computed now or by an earlier call or process.

        Args:
            images: What tells these images from others.
            shape: Of all maps together.
            maps: Computes them, batch by batch.

        Raises:
            NoRoomError: They do not fit on the disk, into what the settings allow, or into the type they are kept in.
        """
        directory = self._directory / digest_of(self._made_by, *images, str(shape))
        size = math.prod(shape) * self._type.itemsize
        try:
            if not directory.exists():
                self._make_room(size)
            kept = made_once(
                directory,
                size,
                make=lambda beside: self._write(beside, shape, maps()),
                open_made=lambda made: open_array(made / "maps.npy", self._type, shape),
                again="the feature maps are computed anew",
            )
        except OSError as error:
            if is_disk_full(error):
                raise NoRoomError(f"{size / 1e6:,.1f} MB (free: {free_space([self._directory])})") from error
            raise
        with suppress(FileNotFoundError):  # Another process may have made room already; what is open stays open.
            os.utime(directory)  # When it was used last.
        self._used.add(directory)
        return kept

    def rounded(self, maps: tf.Tensor) -> tf.Tensor:
        """Maps as they would be if they were kept, float32; numbers that are too large for that as they are."""
        kept = tf.cast(tf.cast(maps, tf.as_dtype(self._type)), tf.float32)
        return tf.where(tf.math.is_finite(kept), kept, tf.cast(maps, tf.float32))

    def _make_room(self, size: int) -> None:
        """Removes those that were used longest ago until `size` bytes more are no more than is allowed in all.

        Raises:
            NoRoomError: They are more beside what this run uses; nothing is removed then.
        """
        self._directory.mkdir(parents=True, exist_ok=True)
        # One process at a time; whoever has a set open keeps it until the end.
        with FileLock(self._directory / "room.lock"):
            taken = {path: _bytes_in(path) for path in self._directory.iterdir() if path.is_dir()}
            in_use = sum(taken[path] for path in taken if path in self._used or path.name.startswith(INCOMPLETE))
            if in_use + size > self._most_bytes:
                raise NoRoomError(f"{size / 1e6:,.1f} MB (backbone.feature_cache_gb={self._most_bytes / 1e9:g})")
            others = [path for path in taken if path not in self._used and not path.name.startswith(INCOMPLETE)]
            for oldest in sorted(others, key=_last_used):
                if sum(taken.values()) + size <= self._most_bytes:
                    break
                shutil.rmtree(oldest, ignore_errors=True)
                del taken[oldest]

    def _write(self, directory: Path, shape: tuple[int, ...], maps: Iterable[tf.Tensor]) -> None:
        directory.mkdir()
        written = 0
        with (directory / "maps.npy").open("wb") as file:
            begin_array(file, self._type, shape)
            for batch in maps:
                whole = tf.cast(batch, tf.float32).numpy()
                with np.errstate(over="ignore"):
                    kept = whole.astype(self._type)
                if np.isinf(kept[np.isfinite(whole)]).any():
                    raise NoRoomError(f"numbers of up to {np.abs(whole).max():.3g} do not fit into {self._type}")
                file.write(kept.tobytes())
                written += len(kept)
        if written != shape[0]:
            raise OSError(errno.EIO, f"{written} maps instead of {shape[0]}", str(directory))
