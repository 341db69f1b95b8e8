"""Files that are there whole or not at all, and what to say when there is no room for them."""

from __future__ import annotations

import errno
import fcntl
import glob
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from pipeline.common.errors import UserError

INCOMPLETE = "incomplete-"
"""Beginning of the names of what is being written."""
SIGNS_OF_A_FULL_DISK = (
    *(os.strerror(number) for number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)),
    "database or disk is full",  # SQLite
    "No usable temporary directory",  # Python tries several, and what it tries is to write.
)
UNEXPLAINED = ("disk I/O error", "unable to open database file")
"""What SQLite says of a quota that is used up, and of much else."""
LEAST_ROOM = 4 * 10**6
"""Bytes: what the store, the state and the model of a small run take."""
ELSEWHERE = "output_dir=PATH, or the environment variable TMPDIR=PATH for temporary files"


class DiskFullError(UserError):
    """There is no room left on a disk, or in a quota.

    Args:
        error: What says so (see `is_disk_full`).
        places: Directories to look at: of each of their disks, the message tells the room.
        remedy: The setting that leads elsewhere.
    """

    def __init__(self, error: BaseException, places: list[Path], remedy: str = ELSEWHERE) -> None:
        said = next(line for line in str(_sign(error)).splitlines() if _tells(line)).rstrip(".")
        # What is free on the disk, a quota keeps from its owner.
        is_quota = os.strerror(errno.EDQUOT) in said
        what = f"The quota is used up: {said}" if is_quota else f"The disk is full: {said}. Free: {free_space(places)}"
        super().__init__(
            f"{what}. Free some space and give the same command again, which goes on where it stopped; or use another "
            f"disk with {remedy}."
        )


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Writes a file, or a directory that is not there yet, beside its place, and then moves it there.

    Whoever looks at the place finds what was there before or all of the new, also after the process was killed or the
    power lost. What a killed one has left beside it, the next one removes.

    Args:
        path: The place; an older file is replaced.

    Yields:
        Where to write: the same name in a directory of its own, which is gone once the block ends.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        with _locked(path.parent, wait=True):  # Else somebody takes what is just begun for left behind.
            _remove_leftovers(path.parent, glob.escape(path.name))
            begun = tempfile.TemporaryDirectory(dir=path.parent, prefix=f"{INCOMPLETE}{path.name}-")
            directory = Path(stack.enter_context(begun))
            stack.enter_context(_locked(directory, wait=True))
        beside = directory / path.name
        yield beside
        # Before the name is, the content has to be on the disk: else a power loss leaves an empty file.
        for written in (*beside.rglob("*"), beside):
            _to_disk(written)
        beside.replace(path)
        _to_disk(path.parent)


def remove_leftovers(directory: Path) -> None:
    """Removes what killed processes left in a directory by `atomic_write`, and nothing of those that are at it.

    What cannot be removed stays; and so does all on file systems without the kernel's locks, such as some on other
    machines.
    """
    with suppress(OSError), _locked(directory, wait=True):
        _remove_leftovers(directory, "*")


def _remove_leftovers(directory: Path, pattern: str) -> None:
    for leftover in directory.glob(f"{INCOMPLETE}{pattern}-*"):
        with suppress(OSError), _locked(leftover, wait=False) as is_left:  # Somebody else may remove it.
            if is_left:
                shutil.rmtree(leftover)


@contextmanager
def _locked(directory: Path, wait: bool) -> Iterator[bool]:
    """Holds the kernel's lock on a directory, which ends with the process at the latest; whether it could be had."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
            had = True
        except OSError:  # Somebody else has it, or the file system has no such locks.
            had = False
        yield had
    finally:
        os.close(descriptor)


def expanded(path: str) -> Path:
    """What was typed as a path, with `~` expanded; that of a user who is not there stays as it is, as in a shell."""
    return Path(os.path.expanduser(path))  # noqa: PTH111  Path.expanduser raises RuntimeError for such a user.


def is_disk_full(error: BaseException) -> bool:
    """Whether an error, or one that it came from, says that a disk or a quota is full."""
    return _sign(error) is not None


def sign_of_full_disk(error: BaseException, place: Path) -> BaseException | None:
    """What says that a disk or a quota is full; None if nothing does.

    Args:
        error: What was raised. Where SQLite says no more than that it could not write, a small file is tried.
        place: Where that goes: a directory, or one that could not be made.
    """
    if is_disk_full(error):
        return error
    if _first(error, UNEXPLAINED) is None:
        return None
    try:
        with tempfile.TemporaryFile(dir=_existing(place)) as file:
            file.write(bytes(LEAST_ROOM))
            file.flush()
            os.fsync(file.fileno())
    except OSError as refused:
        return refused if is_disk_full(refused) else None
    return None


def free_space(places: list[Path]) -> str:
    """What is free on the disks that hold some directories, the fullest first: `0.1 MB in /a, 3,100.0 MB in /tmp`."""
    disks: dict[int, Path] = {}
    for place in map(_existing, places):
        disks.setdefault(place.stat().st_dev, place)
    free = sorted((shutil.disk_usage(place).free, place) for place in disks.values())
    return ", ".join(f"{size / 1e6:,.1f} MB in {place}" for size, place in free)


def writable_places(output_path: Path) -> list[Path]:
    """Where a run writes to: its `output_dir` with what may be mounted there, and the directory for temporary files."""
    return [output_path, *sorted(output_path.glob("*")), Path(tempfile.tempdir or os.environ.get("TMPDIR", "/tmp"))]


def _sign(error: BaseException | None) -> BaseException | None:
    """The first of an error and those that it came from that tells of a full disk."""
    return _first(error, SIGNS_OF_A_FULL_DISK)


def _first(error: BaseException | None, signs: Sequence[str]) -> BaseException | None:
    while error is not None and not any(sign in str(error) for sign in signs):
        error = error.__cause__ or error.__context__
    return error


def _tells(text: str) -> bool:
    return any(sign in text for sign in SIGNS_OF_A_FULL_DISK)


def _existing(place: Path) -> Path:
    """A directory, or the nearest above it that is there."""
    while not place.exists():
        place = place.parent
    return place


def _to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
