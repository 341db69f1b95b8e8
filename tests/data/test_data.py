"""Splits, order, caches and sizes of the data, and what is said where something is wrong."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import keras
import numpy as np
import pytest

from pipeline.common.errors import ConfigError, UserError
from pipeline.data import decoded, source, splits
from pipeline.data.batches import Data
from pipeline.data.settings import Cache, Dataset
from pipeline.data.splits import DecodedSplit
from pipeline.data.tf_data import resize
from tests.conftest import ROOT


def _load(tmp_path: Path, seed: int = 0, **settings: Any) -> Data:
    return source.load(Dataset(name="digits", version="1.0.0", **settings), seed, tmp_path / "cache")


def _epoch(data: Data, epochs: int = 1, batch_size: int = 32) -> list[np.ndarray]:
    """Images of each epoch, as one array an epoch."""
    batches = [images for images, _ in data.train(batch_size, epochs).as_numpy_iterator()]
    steps = -(-len(data.train_indices) // batch_size)
    return [np.concatenate(batches[start : start + steps]) for start in range(0, len(batches), steps)]


def test_facts_come_from_the_dataset() -> None:
    facts = source.describe(Dataset(name="fashion_mnist"))
    assert (facts.name, facts.image_shape, facts.classes) == ("fashion_mnist", (28, 28, 1), 10)
    assert facts.class_names[9] == "Ankle boot"
    resized = source.describe(Dataset(name="cifar10", image_size=[48, 64]))
    assert (resized.image_shape, resized.classes, resized.version) == ((48, 64, 3), 10, "3.0.2")


@pytest.mark.long
def test_validation_is_carved_out_of_train_by_the_seed(tmp_path: Path) -> None:
    data = _load(tmp_path)
    # round(1,437 · 0.1) = 144, of which each digit has 144 / 1,437 of its images: of 142 14.23, of 146 14.63, of 145
    # 14.53, of 143 14.33, of 139 13.93 and of 144 14.43. Rounded down that is 10 · 14 − 1; the 5 that are left go to
    # the largest remainders: the 9th (.93), the 2nd and 4th (.63), and two of the three of 145, drawn by lot.
    labels = data.train_split.labels
    assert np.bincount(labels).tolist() == [142, 146, 142, 146, 145, 145, 145, 143, 139, 144]
    held_out = np.bincount(labels[data.validation_indices]).tolist()
    assert (held_out[:4], sorted(held_out[4:7]), held_out[7:]) == ([14, 15, 14, 15], [14, 15, 15], [14, 14, 14])
    assert (len(data.train_indices), len(data.validation_indices), len(data.test_split)) == (1293, 144, 360)
    assert np.array_equal(np.sort(np.concatenate([data.train_indices, data.validation_indices])), np.arange(1437))
    assert np.array_equal(_load(tmp_path).validation_indices, data.validation_indices)
    assert not np.array_equal(_load(tmp_path, seed=1).validation_indices, data.validation_indices)


@pytest.mark.long
def test_every_epoch_sees_every_training_image_once_in_another_order(tmp_path: Path) -> None:
    data = _load(tmp_path)
    first, second = _epoch(data, epochs=2)
    assert isinstance(data.train_split, DecodedSplit)
    expected = sorted(image.tobytes() for image in data.train_split.images[data.train_indices])
    assert sorted(image.tobytes() for image in first) == expected
    assert sorted(image.tobytes() for image in second) == expected
    assert not np.array_equal(first, second)


@pytest.mark.long
def test_small_and_large_splits_bring_the_same_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # digits' 1,437 training images of 64 bytes are 91,968 bytes.
    read: list[list[tuple[np.ndarray, np.ndarray]]] = []
    for small_split in (91_968, 91_967):
        monkeypatch.setattr(splits, "SMALL_SPLIT", small_split)
        data = _load(tmp_path)
        read.append([*data.train(32, 2).as_numpy_iterator(), *data.validation(32).as_numpy_iterator()])
    # 2 · ceil(1,293 / 32) + ceil(144 / 32)
    assert len(read[0]) == len(read[1]) == 2 * 41 + 5
    for (images, labels), (same_images, same_labels) in zip(*read, strict=True):
        assert np.array_equal(images, same_images)
        assert np.array_equal(labels, same_labels)
        assert images.dtype == same_images.dtype == np.uint8


@pytest.mark.long
@pytest.mark.parametrize("cache", list(Cache))
def test_the_order_is_a_function_of_the_seed(tmp_path: Path, cache: Cache) -> None:
    # Without validation images, so that all seeds train on the same ones.
    orders = []
    for seed in (0, 0, 1):
        keras.utils.set_random_seed(seed)  # as `build_model` does
        orders.append(_epoch(_load(tmp_path, seed, cache=cache, validation_fraction=0.0), epochs=2))
    first, same, other = (np.concatenate(order) for order in orders)
    assert np.array_equal(first, same)
    assert not np.array_equal(first, other)
    first_epoch, second_epoch = orders[0]
    assert not np.array_equal(first_epoch, second_epoch)


@pytest.mark.long
def test_all_caches_hold_the_same_images(tmp_path: Path) -> None:
    memory, disk, none = (_load(tmp_path, cache=cache, image_size=[12, 10]) for cache in Cache)
    for part in ("validation", "test"):
        batches = [list(getattr(data, part)(50).as_numpy_iterator()) for data in (memory, disk, none)]
        for expected, *others in zip(*batches, strict=True):
            for images, labels in others:
                assert images.shape[1:] == (12, 10, 1)
                assert np.array_equal(images, expected[0])
                assert np.array_equal(labels, expected[1])
    assert np.array_equal(_epoch(memory)[0], _epoch(disk)[0])
    # Streaming shuffles through a buffer, so its order is its own; its images are not.
    streamed = sorted(image.tobytes() for image in _epoch(none)[0])
    assert streamed == sorted(image.tobytes() for image in _epoch(memory)[0])


def test_the_disk_cache_is_read_back_and_leaves_nothing_unfinished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source.forget()
    first = _load(tmp_path, cache=Cache.disk).test_split
    caches = [path for path in (tmp_path / "cache").iterdir() if path.suffix != ".lock"]
    assert len(caches) == 2  # train and test
    source.forget()
    monkeypatch.setattr(decoded, "_decode_to_disk", lambda *_: pytest.fail("decoded again"))
    second = _load(tmp_path, cache=Cache.disk).test_split
    assert isinstance(first, DecodedSplit)
    assert isinstance(second, DecodedSplit)
    assert isinstance(second.images.base, np.memmap)
    assert np.array_equal(first.images, second.images)
    source.forget()


def test_a_damaged_disk_cache_is_named_and_made_anew(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source.forget()
    expected = _load(tmp_path, cache=Cache.disk).test_split
    assert isinstance(expected, DecodedSplit)
    images = np.array(expected.images)
    source.forget()
    (file,) = [path for path in (tmp_path / "cache").glob("*/images.npy") if len(np.load(path)) == len(images)]
    os.truncate(file, 5000)
    (file.parents[1] / f"incomplete-{file.parent.name}-x").mkdir()  # Of a process that was killed.
    repaired = _load(tmp_path, cache=Cache.disk).test_split
    assert isinstance(repaired, DecodedSplit)
    assert np.array_equal(repaired.images, images)
    said = [record.getMessage() for record in caplog.records if record.name == "pipeline"]
    assert [line.startswith(f"{file.parent} is damaged (") for line in said] == [True]
    assert not list((tmp_path / "cache").glob("incomplete-*"))
    source.forget()


@pytest.mark.long
def test_pipelines_run_without_the_autotuner(tmp_path: Path) -> None:
    """It would round every pass up to 10·(2ⁿ - 1) ms."""
    for cache in Cache:
        data = _load(tmp_path, cache=cache)
        for pipeline in (data.train(32, 1), data.validation(32), data.test(32)):
            assert pipeline.options().autotune.enabled is False


@pytest.mark.long
@pytest.mark.parametrize("cache", list(Cache))
def test_keras_does_not_run_out_of_data(tmp_path: Path, cache: Cache) -> None:
    data = _load(tmp_path, cache=cache)
    assert int(data.validation(32).cardinality()) == 5  # ⌈144 / 32⌉
    assert sum(1 for _ in data.train(32, epochs=2)) == 2 * 41  # 2 · ⌈1,293 / 32⌉


def test_resizing_averages_and_rounds() -> None:
    checkerboard = np.tile(np.array([[0, 255], [255, 0]], np.uint8), (2, 2))[np.newaxis, ..., np.newaxis]
    assert resize(checkerboard, (4, 4)).numpy().tolist() == checkerboard.tolist()
    flat = np.full((1, 6, 6, 1), 77, np.uint8)
    for size in ((3, 3), (12, 9)):
        resized = resize(flat, size).numpy()
        assert resized.dtype == np.uint8
        assert resized.shape == (1, *size, 1)
        assert np.all(resized == 77)


def test_limit_takes_the_first_test_images(tmp_path: Path) -> None:
    data = _load(tmp_path)
    whole = np.concatenate([labels for _, labels in data.test(100).as_numpy_iterator()])
    part = np.concatenate([labels for _, labels in data.test(100, limit=150).as_numpy_iterator()])
    assert np.array_equal(part, whole[:150])


def test_images_that_vary_in_size_need_a_size() -> None:
    with pytest.raises(ConfigError, match="dataset.image_size=None: is needed: the images of oxford_flowers102 vary"):
        source.describe(Dataset(name="oxford_flowers102"))
    assert source.describe(Dataset(name="oxford_flowers102", image_size=[64, 64])).image_shape == (64, 64, 3)


def test_other_wrong_datasets_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"dataset.name=fashion_mnits: .*Did you mean fashion_mnist\?"):
        source.describe(Dataset(name="fashion_mnits"))
    with pytest.raises(ConfigError, match="dataset=mnist:9.9.9: TFDS cannot open it"):
        source.describe(Dataset(name="mnist", version="9.9.9"))
    with pytest.raises(ConfigError, match="is not an image-classification dataset"):
        source.describe(Dataset(name="imdb_reviews"))


def test_a_missing_dataset_names_the_directories_and_the_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import requests

    def no_network(*_: object, **__: object) -> None:
        raise requests.exceptions.ConnectionError("no route to host")

    monkeypatch.setattr(requests.Session, "get", no_network)
    with pytest.raises(UserError) as caught:
        source.load(Dataset(name="mnist", data_dir=str(tmp_path / "tfds")), 0, tmp_path)
    message = str(caught.value)
    assert f"data_dir {tmp_path / 'tfds'}: ConnectionError: no route to host" in message
    assert str(tmp_path / "tfds" / "downloads" / "manual") in message
    assert "dataset=digits" in message


def test_splits_are_checked(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="dataset.test_split=tset: digits has no such split. Use one of train, test"):
        _load(tmp_path, test_split="tset")
    with pytest.raises(ConfigError, match="shares images with dataset.train_split=train"):
        _load(tmp_path, test_split="train[90%:]")
    with pytest.raises(ConfigError, match="holds no image"):
        _load(tmp_path, test_split="test[:0]")
    parts = _load(tmp_path, train_split="train[:80%]", test_split="train[80%:]")
    assert len(parts.test_split) == 1437 - round(1437 * 0.8)


def test_a_validation_part_that_would_be_empty_or_all_is_refused(tmp_path: Path) -> None:
    # Each of the ten classes keeps an image: 1,437 − 10 = 1,427 can be held out, and round(1,437 · 0.9933) is 1,427.
    for fraction, held_out in ((0.0003, 0), (0.9934, 1428), (0.9999, 1437)):
        with pytest.raises(ConfigError, match=f"holds {held_out} of the 1437 images of train out") as caught:
            _load(tmp_path, validation_fraction=fraction)
        assert "Use for example dataset.validation_fraction=0.1, or dataset.validation_fraction=0 " in str(caught.value)
    assert len(_load(tmp_path, validation_fraction=0.9933).train_indices) == 10


@pytest.mark.long
def test_the_caches_hold_out_the_same_images(tmp_path: Path) -> None:
    first, *others = (_load(tmp_path, cache=cache) for cache in Cache)
    for other in others:
        assert other.train_split.labels.dtype == first.train_split.labels.dtype == np.int64
        assert np.array_equal(other.train_split.labels, first.train_split.labels)
        assert np.array_equal(other.validation_indices, first.validation_indices)


@pytest.mark.slow
def test_processes_that_prepare_one_dataset_at_once_all_succeed(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path\n"
        "from pipeline.data.settings import Dataset; from pipeline.data.source import load\n"
        "data = load(Dataset(name='digits', data_dir=sys.argv[1]), 0, Path(sys.argv[1]))\n"
        "assert len(data.test_split) == 360\n"
    )
    processes = [
        subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], cwd=ROOT, stderr=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    assert [stderr for process in processes if (stderr := process.communicate()[1]) and process.returncode] == []


@pytest.fixture
def small_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """1 TB on every disk, and as much free memory."""
    disk, memory = SimpleNamespace(total=10**12, used=0, free=10**12), SimpleNamespace(available=10**12)
    monkeypatch.setattr("shutil.disk_usage", lambda _: disk)
    monkeypatch.setattr("psutil.virtual_memory", lambda: memory)


@pytest.mark.usefixtures("small_machine")
def test_images_that_do_not_fit_into_memory_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="dataset.cache=memory: train of digits takes 1437.0 GB"):
        _load(tmp_path, cache=Cache.memory, image_size=[50_000, 20_000])  # 1,437 images of 1 GB


@pytest.mark.usefixtures("small_machine")
def test_images_that_fit_neither_on_disk_nor_into_memory_are_refused(tmp_path: Path) -> None:
    message = r"dataset.cache=disk: train of digits takes 1437.0 GB at 50000×20000 px; free are [\d,.]+ MB in .*cache, "
    with pytest.raises(ConfigError, match=message):
        _load(tmp_path, image_size=[50_000, 20_000])
    assert not list((tmp_path / "cache").glob("*/images.npy"))


@pytest.mark.slow
def test_streaming_twice_the_memory_limit_trains(tmp_path: Path) -> None:
    # 950 images of 2,000 · 2,000 bytes are 3.8 GB; the process may have 1.9, to which its threads' stacks count:
    # two threads, however many cores there are.
    limit = 1_900_000_000
    completed = subprocess.run(
        [
            *(sys.executable, "-m", "pipeline.train", "head=global_average_pool", "training.epochs=1"),
            *("dataset.cache=none", "dataset.image_size=[2000,2000]", "dataset.shuffle_buffer=10"),
            *("dataset.train_split='train[:950]'", "dataset.test_split='test[:4]'"),
            *("dataset.validation_fraction=0.01", "training.batch_size=4"),
            *("backbone.filters=[16]", "backbone.strides=[32]", "size_probe.sizes=[2000]", "size_probe.batch_size=4"),
            *("launch.threads=2", f"output_dir={tmp_path}"),
        ],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_DATA, (limit, limit)),
    )
    assert completed.returncode == 0, completed.stderr
    assert "test accuracy" in completed.stdout + completed.stderr


@pytest.mark.long
def test_damaged_files_are_named(tmp_path: Path) -> None:
    builder_dir = tmp_path / "tfds" / "digits" / "1.0.0"
    dataset = Dataset(name="digits", data_dir=str(tmp_path / "tfds"), cache=Cache.memory)
    source.load(dataset, 0, tmp_path / "cache")
    source.forget()
    (file,) = builder_dir.glob("digits-test.tfrecord*")
    file.write_bytes(file.read_bytes()[:-2000])
    with pytest.raises(UserError, match=r"digits.*damaged.*Delete"):
        source.load(dataset, 0, tmp_path / "cache")


@pytest.mark.long
def test_digest_tells_splits_apart(tmp_path: Path) -> None:
    data = _load(tmp_path)
    assert data.train_split.digest != data.test_split.digest
    assert data.train_split.digest == _load(tmp_path, cache=Cache.none).train_split.digest
    assert len(data.train_split.digest) == 32


@pytest.mark.long
@pytest.mark.parametrize("cache", [Cache.memory, Cache.none])
def test_what_is_left_of_a_training_comes_as_if_it_had_not_stopped(cache: Cache, tmp_path: Path) -> None:
    data = _load(tmp_path, cache=cache)
    batches = []
    for done in (0, 2):
        keras.utils.set_random_seed(0)  # As `build_model` does.
        batches.append(list(data.train(32, 3, done=done).as_numpy_iterator()))
    whole, left = batches
    assert (len(whole), len(left)) == (3 * 41, 41)
    for (images, labels), (same_images, same_labels) in zip(whole[2 * 41 :], left, strict=True):
        assert np.array_equal(images, same_images)
        assert np.array_equal(labels, same_labels)
