"""Files that are there whole or not at all, and what to say when there is no room for them."""

from __future__ import annotations

import errno
import glob
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.common.errors import UserError

INCOMPLETE = "incomplete-"
"""Beginning of the names of what is being written."""
SIGNS_OF_A_FULL_DISK = (
    *(os.strerror(number) for number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)),
    "database or disk is full",  # SQLite
    "No usable temporary directory",  # Python tries several, and what it tries is to write.
)
ELSEWHERE = "output_dir=PATH, or the environment variable TMPDIR=PATH for temporary files"


class DiskFullError(UserError):
    """There is no room left on a disk, or in a quota.

    Args:
        error: What says so (see `is_disk_full`).
        places: Directories to look at: of each of their disks, the message tells the room.
        remedy: The setting that leads elsewhere.
    """

    def __init__(self, error: BaseException, places: list[Path], remedy: str = ELSEWHERE) -> None:
        said = next(line for line in str(_sign(error)).splitlines() if _tells(line))
        super().__init__(
            f"The disk is full: {said.rstrip('.')}. Free: {free_space(places)}. Free some space and give the same "
            f"command again, which goes on where it stopped; or use another disk with {remedy}."
        )


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Writes a file, or a directory that is not there yet, beside its place, and then moves it there.

    Whoever looks at the place finds what was there before or all of the new, also after the process was killed or the
    power lost.

    Args:
        path: The place; an older file is replaced.

    Yields:
        Where to write: the same name in a directory of its own, which is gone once the block ends.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f"{INCOMPLETE}{path.name}-") as directory:
        beside = Path(directory) / path.name
        yield beside
        # Before the name is, the content has to be on the disk: else a power loss leaves an empty file.
        for written in (*beside.rglob("*"), beside):
            _to_disk(written)
        beside.replace(path)
        _to_disk(path.parent)


def remove_leftovers(path: Path) -> None:
    """Removes what processes that were killed left of `atomic_write(path)`; only for who holds a lock on that place."""
    for leftover in path.parent.glob(f"{INCOMPLETE}{glob.escape(path.name)}-*"):
        shutil.rmtree(leftover)


def is_disk_full(error: BaseException) -> bool:
    """Whether an error, or one that it came from, says that a disk or a quota is full."""
    return _sign(error) is not None


def free_space(places: list[Path]) -> str:
    """What is free on the disks that hold some directories, the fullest first: `0.1 MB in /a, 3,100.0 MB in /tmp`."""
    disks: dict[int, Path] = {}
    for place in places:
        while not place.exists():
            place = place.parent
        disks.setdefault(place.stat().st_dev, place)
    free = sorted((shutil.disk_usage(place).free, place) for place in disks.values())
    return ", ".join(f"{size / 1e6:,.1f} MB in {place}" for size, place in free)


def writable_places(output_path: Path) -> list[Path]:
    """Where a run writes to: its `output_dir` with what may be mounted there, and the directory for temporary files."""
    return [output_path, *sorted(output_path.glob("*")), Path(tempfile.tempdir or os.environ.get("TMPDIR", "/tmp"))]


def _sign(error: BaseException | None) -> BaseException | None:
    """The first of an error and those that it came from that tells of a full disk."""
    while error is not None and not _tells(str(error)):
        error = error.__cause__ or error.__context__
    return error


def _tells(text: str) -> bool:
    return any(sign in text for sign in SIGNS_OF_A_FULL_DISK)


def _to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
