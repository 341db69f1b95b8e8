"""Files are whole or not there, and a full disk costs nothing but the time until there is room again."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd
import pytest
from mlflow import MlflowException

from pipeline.common.errors import UserError
from pipeline.common.files import (
    DiskFullError,
    atomic_write,
    free_space,
    is_disk_full,
    remove_leftovers,
    writable_places,
)
from pipeline.data import decoded, source
from pipeline.data.settings import Cache, Dataset
from pipeline.data.splits import DecodedSplit
from pipeline.models.keras_file import saved_model
from tests.conftest import ROOT, read_until, standing_still
from tests.program.forked import Ended, Forked, run_forked

MEGABYTES = 24
"""Of the small disk."""


@dataclass(frozen=True)
class SmallDisk:
    """A file system of its own, in memory."""

    path: Path

    @property
    def _ballast(self) -> Path:
        return self.path / "ballast"

    def fill(self, kilobytes_left: int = 0) -> None:
        free = shutil.disk_usage(self.path).free - 1024 * kilobytes_left
        with self._ballast.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, free)

    def clear(self) -> None:
        self._ballast.unlink()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[SmallDisk]:
    path = tmp_path / "small_disk"
    path.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={MEGABYTES}m", "tmpfs", str(path)]
    try:
        subprocess.run(mount, check=True, capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("there is no mount command here to make a small disk with")
    except subprocess.CalledProcessError as error:
        pytest.skip(f"a small disk cannot be mounted here, which takes root: {error.stderr.splitlines()[0]}")
    yield SmallDisk(path)
    subprocess.run(["umount", "--lazy", str(path)], check=True)


@dataclass(frozen=True)
class Quota:
    """A folder on a disk with room, of which its owner may use no more than a quota."""

    path: Path

    def leave(self, kilobytes: int) -> None:
        """Allows so much more than is there."""
        # Of the folder, but by way of the disk: what is full itself takes no new limit.
        limit = ["btrfs", "qgroup", "limit"]
        subprocess.run([*limit, "none", "0/256", str(self.path.parent)], check=True)
        shown = subprocess.run(
            ["btrfs", "qgroup", "show", "--raw", "--sync", "-f", str(self.path)],
            check=True,
            capture_output=True,
            text=True,
        )
        used = int(shown.stdout.splitlines()[-1].split()[1])
        subprocess.run([*limit, str(used + 1024 * kilobytes), "0/256", str(self.path.parent)], check=True)


@pytest.fixture
def quota(tmp_path: Path) -> Iterator[Quota]:
    """By btrfs: its quotas bind root, too."""
    image, mounted = tmp_path / "disk", tmp_path / "mounted"
    mounted.mkdir()
    with image.open("wb") as file:
        file.truncate(400 * 2**20)
    try:
        for command in (
            ["mkfs.btrfs", "-q", str(image)],
            ["mount", "-o", "loop", str(image), str(mounted)],
            ["btrfs", "quota", "enable", str(mounted)],
            ["btrfs", "subvolume", "create", str(mounted / "home")],
        ):
            subprocess.run(command, check=True, capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("btrfs is needed for a quota: apt-get install btrfs-progs")
    except subprocess.CalledProcessError as error:
        pytest.skip(f"a disk with quotas cannot be mounted here: {error.stderr.strip()}")
    yield Quota(mounted / "home")
    subprocess.run(["umount", "--lazy", str(mounted)], check=True)


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    with atomic_write(path) as beside:
        beside.write_text("old")
    with pytest.raises(ZeroDivisionError), atomic_write(path) as beside:
        beside.write_text("half of the n")
        assert path.read_text() == "old"
        _ = 1 / 0
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_directory_appears_with_all_of_its_files(tmp_path: Path) -> None:
    path = tmp_path / "new" / "cache"
    with atomic_write(path) as beside:
        beside.mkdir()
        for name in ("images", "labels"):
            (beside / name).write_text(name)
        assert not path.exists()
    assert sorted(file.read_text() for file in path.iterdir()) == ["images", "labels"]
    assert list(path.parent.iterdir()) == [path]


def test_a_killed_process_leaves_the_old_file_and_what_the_next_one_removes(tmp_path: Path) -> None:
    path = tmp_path / "state.npz"
    path.write_text("old")
    script = (
        "import os, signal, sys; from pathlib import Path; from pipeline.common.files import atomic_write\n"
        "with atomic_write(Path(sys.argv[1])) as beside:\n"
        "    beside.write_text('half of the n'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    killed = subprocess.run([sys.executable, "-c", script, str(path)], cwd=ROOT)
    assert killed.returncode == -signal.SIGKILL
    assert path.read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 2
    other = tmp_path / "incomplete-other-state.npz-x"  # Of somebody else's file.
    other.mkdir()
    with atomic_write(path) as beside:
        beside.write_text("new")
    assert sorted(tmp_path.iterdir()) == [other, path]
    with atomic_write(path) as beside:
        beside.write_text("newer")
        remove_leftovers(tmp_path)  # Not of who is at it.
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_text() == "newer"


def test_a_full_disk_is_known_however_a_library_says_it() -> None:
    def chained(cause: Exception) -> UserError:
        try:
            raise UserError("the store does not answer") from cause
        except UserError as error:
            return error

    for number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        assert is_disk_full(OSError(number, os.strerror(number)))
    assert is_disk_full(MlflowException("(sqlite3.OperationalError) database or disk is full\n[SQL: INSERT …"))
    assert is_disk_full(chained(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))))
    assert not is_disk_full(chained(OSError(errno.EROFS, os.strerror(errno.EROFS))))


def test_the_message_names_cause_directories_room_and_remedy(tmp_path: Path) -> None:
    cause = MlflowException("(raised by a flush)\n(sqlite3.OperationalError) database or disk is full\n[SQL: INSERT …")
    message = str(DiskFullError(cause, [tmp_path / "not_there_yet"]))
    assert message.startswith("The disk is full: (sqlite3.OperationalError) database or disk is full. Free: ")
    assert f" MB in {tmp_path}. Free some space and give the same command again" in message
    assert "output_dir=PATH" in message
    assert "SQL" not in message


def test_the_fullest_disk_is_named_first(tmp_path: Path, small_disk: SmallDisk) -> None:
    small_disk.fill()
    (tmp_path / "outputs").mkdir()
    (tmp_path / "outputs" / "artifacts").symlink_to(small_disk.path)
    assert free_space(writable_places(tmp_path / "outputs")).startswith(f"0.0 MB in {tmp_path}/outputs/artifacts, ")


def test_a_full_disk_leaves_the_old_file_and_takes_no_room(small_disk: SmallDisk) -> None:
    path = small_disk.path / "file"
    path.write_text("old")
    small_disk.fill(kilobytes_left=64)
    free = shutil.disk_usage(small_disk.path).free
    with pytest.raises(OSError, match="No space left on device"), atomic_write(path) as beside:
        beside.write_bytes(bytes(100_000))
    assert path.read_text() == "old"
    assert shutil.disk_usage(small_disk.path).free == free


def test_without_room_for_a_model_its_directory_and_setting_are_named(small_disk: SmallDisk) -> None:
    path = small_disk.path / "new.keras"
    path.write_text("old")
    model = keras.Sequential([keras.Input((100,)), keras.layers.Dense(1000)])  # 404 kB
    small_disk.fill(kilobytes_left=64)
    with (
        pytest.raises(DiskFullError, match=f"MB in {small_disk.path}.*another disk with output=PATH"),
        saved_model(model, path, "output"),
    ):
        pass
    assert path.read_text() == "old"


def test_without_room_for_the_cache_images_are_kept_in_memory(
    small_disk: SmallDisk, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def load() -> DecodedSplit:
        source.forget()
        split = source.load(Dataset(name="digits", version="1.0.0", cache=Cache.disk), 0, small_disk.path).train_split
        assert isinstance(split, DecodedSplit)
        return split

    small_disk.fill(kilobytes_left=32)  # To train on, digits has 1,437 images of 64 bytes.
    in_memory = load()
    assert f"dataset.cache=disk: {small_disk.path} has no room for 0.1 MB of decoded images" in caplog.text
    assert not list(small_disk.path.glob("incomplete-*"))
    with monkeypatch.context() as patched, pytest.raises(DiskFullError, match=f"MB in {small_disk.path}"):
        patched.setattr(decoded, "available_memory", lambda: 1000)
        load()
    small_disk.clear()
    on_disk = load()
    assert isinstance(on_disk.images.base, np.memmap)
    assert not isinstance(in_memory.images, np.memmap)
    assert np.array_equal(on_disk.images, in_memory.images)
    assert np.array_equal(on_disk.labels, in_memory.labels)
    source.forget()


@pytest.mark.slow
def test_without_room_for_the_dataset_its_directory_is_named(small_disk: SmallDisk, tmp_path: Path) -> None:
    dataset = Dataset(name="digits", version="1.0.0", data_dir=str(small_disk.path))
    small_disk.fill(kilobytes_left=32)
    with pytest.raises(DiskFullError, match=f"MB in {small_disk.path}.*dataset.data_dir=PATH"):
        source.load(dataset, 0, tmp_path)
    small_disk.clear()
    assert len(source.load(dataset, 0, tmp_path).train_split) == 1437


# Of one run on digits, in kB: Hydra's files 30, the store 1,000, the state 1,100, the model 400, the rest 700.
RUN = ("training.epochs=2", "training.deterministic=true", "training.checkpoint_seconds=0", "size_probe.ways=[]")


Result = Ended | subprocess.CompletedProcess[str]


def _run(directory: Path, *arguments: str, **environment: str) -> Ended:
    return run_forked("pipeline.train", *arguments, *RUN, cwd=directory, environment=environment)


def _results(outputs: Path) -> dict[str, tuple[str, list[list[Any]]]]:
    """Of each run by name: its status, and all points of its metrics that deterministic runs share.

    The store is whole, no run is there twice, and the predictions of finished runs can be read.
    """
    # Not through MLflow, which would hold on to a store that was here before.
    with closing(sqlite3.connect(outputs / "mlflow.db")) as store:
        assert store.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        runs = store.execute("SELECT run_uuid, name, status FROM runs").fetchall()
        points = store.execute(
            "SELECT run_uuid, key, step, value, is_nan FROM metrics "
            "WHERE key NOT IN ('train/images_per_second', 'cost/ms_per_image') ORDER BY key, step"
        ).fetchall()
    for run_id, _, status in runs:
        if status == "FINISHED":
            file = outputs / "artifacts" / "digits" / run_id / "artifacts" / "predictions.parquet"
            assert len(pd.read_parquet(file)) == 360
    found = {name: (status, [point for of, *point in points if of == run_id]) for run_id, name, status in runs}
    assert len(found) == len(runs)
    return found


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with `before`, the outputs of an earlier run, and `undisturbed`, where a second one followed."""
    directory = tmp_path_factory.mktemp("place")
    for arguments, kept in ((["seed=1"], "before"), (["seed=0"], "undisturbed")):
        result = _run(directory, *arguments)
        assert result.returncode == 0, result.stderr
        shutil.copytree(directory / "outputs", directory / kept)
    return directory


@pytest.fixture
def outputs(place: Path) -> Path:
    """The outputs as after the earlier run, in the same place: MLflow keeps absolute paths of artifacts."""
    path = place / "outputs"
    path.unlink() if path.is_symlink() else shutil.rmtree(path)
    shutil.copytree(place / "before", path)
    return path


def _move(path: Path, disk: SmallDisk) -> None:
    """Has a file or directory on a disk, where the program goes on finding it."""
    there = disk.path / path.name
    if path.exists():
        shutil.move(path, there)
    else:
        there.mkdir()
    path.symlink_to(there)


def _check_failed(result: Result, disk: Path, outputs: Path, place: Path) -> None:
    """One message that names the disk, and the earlier run as it was."""
    assert result.returncode == 1, result.stdout + result.stderr
    (message,) = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    assert message.startswith("Error: The disk is full: ")
    assert f" Free: 0.0 MB in {disk}" in message or f" Free: 0.1 MB in {disk}" in message
    assert "give the same command again" in message
    assert "Traceback" not in result.stderr + result.stdout
    assert not list(outputs.rglob("incomplete-*"))
    earlier = "global_average_pool seed 1"
    assert _results(outputs)[earlier] == _results(place / "before")[earlier]


def _check_goes_on(place: Path, *arguments: str, **environment: str) -> str:
    """The same command ends like an undisturbed one; returns what it prints."""
    result = _run(place, "seed=0", *arguments, **environment)
    assert result.returncode == 0, result.stderr
    assert _results(place / "outputs") == _results(place / "undisturbed")
    assert not list((place / "outputs" / "unfinished").iterdir())
    return result.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    ("folder", "kilobytes_left", "trained"),
    [
        ("hydra", 0, False),
        ("mlflow.db", 0, False),
        ("mlflow.db", 60, None),  # Room to start the run, not to end it.
        ("artifacts", 100, True),  # Room for the configuration, not for the model.
        ("temporary", 64, True),
    ],
)
def test_a_run_goes_on_once_there_is_room(
    folder: str, kilobytes_left: int, trained: bool | None, place: Path, outputs: Path, small_disk: SmallDisk
) -> None:
    _move(outputs / folder, small_disk)
    environment = {"TMPDIR": str(outputs / folder)} if folder == "temporary" else {}
    small_disk.fill(kilobytes_left)
    result = _run(place, "seed=0", **environment)
    _check_failed(result, outputs if folder == "mlflow.db" else outputs / folder, outputs, place)
    small_disk.clear()
    printed = _check_goes_on(place, **environment)
    if trained is not None:
        assert ("going on after epoch 2/2" in printed) == trained


@pytest.mark.slow
@pytest.mark.parametrize("kilobytes_left", [0, 1000])
def test_a_quota_that_is_used_up_is_told_and_a_larger_one_goes_on(
    kilobytes_left: int, place: Path, outputs: Path, quota: Quota
) -> None:
    """SQLite says of it that a file cannot be opened, or that the disk has an error."""
    shutil.move(outputs, quota.path)
    outputs.symlink_to(quota.path / "outputs")
    quota.leave(kilobytes_left)
    result = _run(place, "seed=0")
    assert result.returncode == 1, result.stdout + result.stderr
    (message,) = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    assert message.startswith("Error: The quota is used up: [Errno 122] Disk quota exceeded")
    assert "give the same command again" in message
    assert "Traceback" not in result.stderr + result.stdout
    quota.leave(10_000)
    _check_goes_on(place)


@pytest.mark.slow
def test_a_run_goes_on_after_the_disk_got_full_in_the_middle(place: Path, outputs: Path, small_disk: SmallDisk) -> None:
    _move(outputs, small_disk)
    process = Forked("pipeline.train", *RUN, "seed=0", cwd=place, stderr=subprocess.PIPE)
    before = read_until(process, "epoch 1/2")
    with standing_still(process, outputs / "mlflow.db"):
        small_disk.fill()
    stdout, stderr = process.communicate()
    result = subprocess.CompletedProcess(process.args, process.wait(), before + stdout, stderr)
    _check_failed(result, outputs, outputs, place)
    small_disk.clear()
    _check_goes_on(place)


@pytest.mark.slow
def test_training_goes_on_without_room_for_its_state(place: Path, outputs: Path, small_disk: SmallDisk) -> None:
    _move(outputs / "unfinished", small_disk)
    small_disk.fill()
    printed = _check_goes_on(place)
    assert "the state after epoch 1 could not be saved: [Errno 28] No space left on device (free: 0.0 MB" in printed


@pytest.mark.slow
def test_a_full_disk_stops_a_sweep(place: Path, outputs: Path, small_disk: SmallDisk) -> None:
    """What follows would fail as well, after its training."""
    _move(outputs / "artifacts", small_disk)
    small_disk.fill(kilobytes_left=100)
    result = _run(place, "--multirun", "seed=0,2")
    _check_failed(result, outputs / "artifacts", outputs, place)
    assert "seed 0" in result.stdout
    assert "seed 2" not in result.stdout
