"""Directories of arrays that are made once for all processes of an `output_dir`: there whole, or not at all."""

from __future__ import annotations

import errno
import functools
import json
import logging
import os
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, TypeVar

import numpy as np
from filelock import FileLock

from pipeline.common.errors import class_and_first_line
from pipeline.common.files import atomic_write, remove_leftovers

log = logging.getLogger("pipeline")

SUMS = "sums.json"
"""In each directory: the CRC-32 of its files."""
MOST_SUMMED = 10**8
"""Bytes of a file whose sum is kept: that is a fifth of a second in each process, and what is larger is only opened."""

Opened = TypeVar("Opened")


def made_once(
    directory: Path, size: int, make: Callable[[Path], None], open_made: Callable[[Path], Opened], again: str
) -> Opened:
    """What a directory holds, which is made now unless it is there; other processes wait for the one that makes it.

    Args:
        directory: Of which `directory.lock` is the lock.
        size: Bytes that it takes.
        make: Makes the directory at the path that it is given.
        open_made: Opens it; raises `OSError`, `EOFError` or `ValueError` if it is damaged: then it is made anew.
        again: What is said of that.

    Raises:
        OSError: There is no room for it.
    """
    directory.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(directory.with_name(f"{directory.name}.lock")):
        if directory.exists():
            try:
                _check_sums(directory)
                return open_made(directory)
            except (OSError, EOFError, ValueError) as error:
                log.warning("%s is damaged (%s): %s", directory, class_and_first_line(error), again)
                if directory.is_dir():
                    shutil.rmtree(directory, ignore_errors=True)  # Or removed meanwhile, to make room.
                else:
                    directory.unlink(missing_ok=True)
        remove_leftovers(directory.parent)
        if size > shutil.disk_usage(directory.parent).free:  # Not after writing for an hour.
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(directory))
        with atomic_write(directory) as beside:
            make(beside)
            (beside / SUMS).write_text(json.dumps(_sums(beside)))
        return open_made(directory)


def _sums(directory: Path) -> dict[str, int]:
    files = [path for path in sorted(directory.iterdir()) if path.name != SUMS and path.stat().st_size <= MOST_SUMMED]
    return {path.name: zlib.crc32(path.read_bytes()) for path in files}


def _check_sums(directory: Path) -> None:
    """Raises `ValueError` or `OSError` if a file is not as it was written: a changed pixel would train all the same."""
    written = (directory / SUMS).stat()
    _compare_sums(directory, written.st_ino, written.st_mtime_ns)


@functools.cache  # Every run of a study in this process opens them again.
def _compare_sums(directory: Path, *of_sums: int) -> None:
    if json.loads((directory / SUMS).read_text()) != _sums(directory):
        raise ValueError("its files are not as they were written")


def open_array(file: Path, dtype: np.typing.DTypeLike, shape: tuple[int, ...]) -> np.ndarray:
    """A memory-mapped `.npy` file; raises `ValueError` unless it holds what it should."""
    # A plain array: each batch that is cut out of a numpy.memmap would be made one, too.
    array = np.load(file, mmap_mode="r").view(np.ndarray)
    if (array.dtype, array.shape) != (np.dtype(dtype), shape):
        raise ValueError(f"{file.name} holds {array.dtype} {array.shape} instead of {np.dtype(dtype)} {shape}")
    return array


def begin_array(file: BinaryIO, dtype: np.typing.DTypeLike, shape: tuple[int, ...]) -> None:
    """Writes the beginning of a `.npy` file; what follows is the numbers of the array, in its order.

    Not through a memory map: on a full disk, writing to one kills the process.
    """
    np.lib.format.write_array_header_1_0(file, {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": shape})
