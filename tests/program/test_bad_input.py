"""Files, datasets, stores and names that are wrong: each is worked around or refused in one line, and none is lost.

Wrong configurations are in `test_config`, wrong image folders also in `test_image_folder`, wrong models also in
`test_from_model` and `test_convert`.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import sqlite3
import struct
import sys
import zipfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import alembic.command
import keras
import mlflow
import numpy as np
import pandas as pd
import pytest
from keras import layers
from mlflow.store.db.utils import _get_alembic_config, create_sqlalchemy_engine
from mlflow.store.tracking.dbmodels import initial_models
from PIL import Image

from pipeline import compare, convert, plan, train
from pipeline.cli.ending import is_mistake
from pipeline.cli.messages import explain
from pipeline.common.errors import ConfigError
from pipeline.config import CONFIG_DIR
from pipeline.data import source
from pipeline.data.batches import Data
from pipeline.data.settings import Cache, Dataset, ImageFolder
from pipeline.data.splits import DecodedSplit
from pipeline.data.tfds import find_builder
from pipeline.models.backbones.pretrained import FromModel, KerasApplication
from pipeline.models.keras_file import MAX_DESCRIPTION, check_keras_file
from pipeline.tracking.settings import STORE_FILE, Tracking
from pipeline.tracking.store import experiment_for, open_store
from pipeline.training.checkpoint import State, capture, load, save
from tests.conftest import ROOT

Spoil = Callable[[Path], Any]


def _explained(action: Callable[[], Any]) -> str:
    """What the user is told of an action that fails: one line."""
    with pytest.raises(Exception) as caught:
        action()
    assert is_mistake(caught.value), f"a stack trace: {caught.value!r}"
    message = explain(caught.value)
    assert len(message.splitlines()) == 1
    return message


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-2000])


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes(content)


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _text(path: Path) -> None:
    path.write_text("This is not what you expect.\n" * 20)


def _folder(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.mkdir()


def _file_instead(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.write_text("a file")


def _without(folder: Path, pattern: str) -> None:
    """Deletes the files and folders that match; there have to be some."""
    found = list(folder.glob(pattern))
    assert found
    for path in found:
        shutil.rmtree(path) if path.is_dir() else path.unlink()


# Datasets of TFDS.


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory of TFDS with digits in it."""
    data_dir = tmp_path_factory.mktemp("tfds")
    source.load(Dataset(name="digits", data_dir=str(data_dir)), 0, data_dir / "cache")
    return data_dir


@pytest.fixture
def data_dir(prepared: Path, tmp_path: Path) -> Path:
    shutil.copytree(prepared, tmp_path / "tfds")
    return tmp_path / "tfds"


def _load(data_dir: Path, cache: Cache = Cache.memory, **settings: Any) -> Data:
    source.forget()
    return source.load(
        Dataset(**{"name": "digits", "data_dir": str(data_dir), "cache": cache, **settings}),
        0,
        data_dir.parent / "cache",
    )


TEST_FILE, INFO = "digits-test.tfrecord-00000-of-00001", "dataset_info.json"
NO_FEATURES = '{"featuresDict": {}, "pythonClassName": "tensorflow_datasets.core.features.features_dict.FeaturesDict"}'


@pytest.mark.parametrize("cache", Cache)
@pytest.mark.parametrize("spoil", [_cut, _flip, _empty, _text, Path.unlink], ids=lambda spoil: spoil.__name__)
def test_damaged_records_are_named_before_training(spoil: Spoil, cache: Cache, data_dir: Path) -> None:
    spoil(data_dir / "digits" / "1.0.0" / TEST_FILE)
    message = _explained(lambda: _load(data_dir, cache))
    assert message.startswith("digits/1.0.0 is damaged: ")
    assert message.endswith(f"Delete {data_dir / 'digits' / '1.0.0'} and start again.")
    assert not list(data_dir.parent.glob("cache/digits*test*"))


@pytest.mark.parametrize(
    "spoil",
    [
        lambda folder: _text(folder / INFO),
        lambda folder: _empty(folder / INFO),
        lambda folder: (folder / INFO).write_text("[]"),
        lambda folder: (folder / INFO).unlink(),
        lambda folder: _without(folder, "*"),
    ],
    ids=["text", "empty", "a list", "missing", "an empty folder"],
)
def test_a_damaged_description_of_a_dataset_is_named(spoil: Spoil, data_dir: Path) -> None:
    spoil(data_dir / "digits" / "1.0.0")
    message = _explained(lambda: _load(data_dir))
    assert str(data_dir) in message
    assert "digits" in message


def test_a_prepared_dataset_that_lacks_what_is_trained_on_is_named(data_dir: Path) -> None:
    """With a version, TFDS goes by the files alone."""
    (data_dir / "digits" / "1.0.0" / "features.json").write_text(NO_FEATURES)
    message = _explained(lambda: _load(data_dir, version="1.0.0"))
    assert message.startswith(
        "dataset.name=digits: is not an image-classification dataset (its supervised keys are ('image', 'label'), its "
        "features None). "
    )


def test_a_dataset_that_names_a_class_of_its_own_runs_no_code(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TFDS reads a prepared dataset that it has no builder of by what its files say, and imports what they name."""
    folder = data_dir / "dots" / "1.0.0"
    shutil.copytree(data_dir / "digits" / "1.0.0", folder)
    for path in list(folder.iterdir()):
        path.rename(folder / path.name.replace("digits", "dots"))
    info = folder / INFO
    info.write_text(info.read_text().replace('"digits"', '"dots"'))
    assert find_builder("dots", None, str(data_dir)).info.splits["test"].num_examples == 360
    find_builder.cache_clear()
    (tmp_path / "payload.py").write_text(f"open({str(tmp_path / 'owned')!r}, 'w')\n")
    monkeypatch.syspath_prepend(tmp_path)
    features = folder / "features.json"
    text = features.read_text()
    for named in ("payload.X", "shutil.X", "pipeline.train.X"):
        features.write_text(re.sub(r"tensorflow_datasets[\w.]*ClassLabel", named, text))
        with pytest.raises(ConfigError) as caught:
            find_builder("dots", None, str(data_dir))
        assert f"it names the class {named}, and only those of tensorflow_datasets are imported" in str(caught.value)
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize(
    "spoil",
    [
        lambda folder: shutil.move(folder, folder.with_name("incomplete.ABCDEF_1.0.0")),
        lambda folder: shutil.rmtree(folder.parent),
        lambda folder: _text(folder / "features.json"),
    ],
    ids=["half downloaded", "missing", "features"],
)
def test_what_is_not_there_or_not_needed_does_not_matter(spoil: Spoil, data_dir: Path) -> None:
    spoil(data_dir / "digits" / "1.0.0")
    assert len(_load(data_dir).test_split) == 360


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "no_such_dataset"}, "dataset.name=no_such_dataset: TFDS"),
        ({"name": "../../etc"}, "dataset"),
        ({"name": ""}, "dataset"),
        ({"name": "imdb_reviews"}, "dataset.name=imdb_reviews: is not an image-classification dataset"),
        ({"version": "newest"}, "dataset.version=newest: must be null or three numbers"),
        ({"version": "9.9.9"}, "dataset=digits:9.9.9: TFDS cannot open it"),
        ({"train_split": "train[:"}, "dataset.train_split=train[:: digits has no such split"),
        ({"test_split": "train"}, "dataset.test_split=train: shares images with dataset.train_split=train"),
    ],
    ids=lambda value: " ".join(map("=".join, value.items())) if isinstance(value, dict) else "",
)
def test_datasets_that_are_none_are_named(settings: dict[str, Any], message: str, data_dir: Path) -> None:
    assert message in _explained(lambda: _load(data_dir, **settings))


def test_a_data_directory_that_is_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert "data_dir" in _explained(lambda: _load(tmp_path / "file"))


# Decoded images on disk.


def _array(file: str, array: np.ndarray) -> Spoil:
    return lambda cache: np.save(cache / file, array, allow_pickle=True)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda cache: _cut(cache / "images.npy"),
        lambda cache: _flip(cache / "images.npy"),
        lambda cache: _flip(cache / "labels.npy"),
        lambda cache: _text(cache / "sums.json"),
        lambda cache: (cache / "sums.json").write_text("[]"),
        lambda cache: _empty(cache / "images.npy"),
        lambda cache: _text(cache / "labels.npy"),
        lambda cache: (cache / "labels.npy").unlink(),
        _array("images.npy", np.zeros((3, 8, 8, 1), np.uint8)),
        _array("images.npy", np.zeros((360, 8, 8, 1), np.float32)),
        _array("labels.npy", np.zeros(3, np.int64)),
        _array("labels.npy", np.array([{}], object)),
        _file_instead,
    ],
    ids=[
        *("cut", "a pixel", "a label", "no sums", "sums of nothing", "empty", "text", "missing", "fewer", "floats"),
        *("fewer labels", "pickled", "a file"),
    ],
)
def test_a_damaged_cache_is_named_and_rebuilt(spoil: Spoil, data_dir: Path, caplog: pytest.LogCaptureFixture) -> None:
    split = _load(data_dir, Cache.disk).test_split
    assert isinstance(split, DecodedSplit)
    expected = np.array(split.images)
    cache = data_dir.parent / "cache" / f"digits-{split.digest}-8x8x1"
    del split  # A file that is cut short while it is mapped into memory ends the process.
    source.forget()
    before = {file.name: file.read_bytes() for file in cache.iterdir()}
    spoil(cache)
    with caplog.at_level(logging.WARNING, "pipeline"):
        data = _load(data_dir, Cache.disk)
    assert f"{cache} is damaged (" in caplog.text
    assert {file.name: file.read_bytes() for file in cache.iterdir()} == before
    beside = {path.name for path in cache.parent.iterdir() if path.suffix != ".lock"}
    assert len(beside) == 2  # Both splits, and nothing beside them.
    assert isinstance(data.test_split, DecodedSplit)
    assert np.array_equal(data.test_split.images, expected)


# Folders of images.


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Four classes of four images, in train and in test."""
    folder = tmp_path / "images"
    for split in ("train", "test"):
        for name in "abcd":
            (folder / split / name).mkdir(parents=True)
            for index in range(4):
                Image.new("RGB", (8, 8), (40 * index, 9, 9)).save(folder / split / name / f"{index}.png")
    return folder


def _link_to_nothing(path: Path) -> None:
    path.unlink()
    path.symlink_to("nowhere")


def _pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _bomb(path: Path) -> None:
    """A PNG that says that it has 10¹⁰ pixels."""
    content = bytearray(path.read_bytes())
    content[16:24] = struct.pack(">II", 100_000, 100_000)
    path.write_bytes(content)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: path.write_bytes(path.read_bytes()[:30]),
        _empty,
        _text,
        _bomb,
        lambda path: path.write_bytes(b"RIFF\0\0\0\0WEBP"),
        _link_to_nothing,
        _folder,
        _pipe,
    ],
    ids=["cut", "empty", "text", "bomb", "webp", "link to nothing", "folder", "pipe"],
)
def test_a_file_that_is_no_image_is_named(spoil: Spoil, images: Path) -> None:
    spoil(images / "train" / "b" / "2.png")
    message = _explained(lambda: source.load(ImageFolder(path=str(images)), 0, images))
    assert message.startswith("dataset.")
    assert "train/b/2.png" in message


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (shutil.rmtree, "is not a folder"),
        (_file_instead, "is not a folder"),
        (lambda folder: shutil.rmtree(folder / "test"), "dataset.test_split=test: is not a folder in"),
        (lambda folder: shutil.rmtree(folder / "test" / "a"), "train and test hold different classes"),
        (lambda folder: _without(folder, "*/*"), "train holds no image"),
        (lambda folder: _without(folder, "*/c/*"), "holds no image of c in train"),
        (lambda folder: _without(folder, "*/[b-d]"), "needs at least two classes"),
    ],
    ids=["missing", "a file", "no test", "another class", "no class", "no image of a class", "one class"],
)
def test_a_folder_that_cannot_be_learned_from_is_refused(spoil: Spoil, message: str, images: Path) -> None:
    spoil(images)
    assert message in _explained(lambda: source.load(ImageFolder(path=str(images)), 0, images))


# States of interrupted trainings.


def _compiled(units: int = 3) -> keras.Model:
    model = keras.Sequential([layers.Input((4,)), layers.Dense(units)])
    model.compile("adam", "mse")
    model.optimizer.build(model.trainable_variables)
    return model


def _zip_of_text(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name in zipfile.ZipFile(path.with_name("good.npz")).namelist():
            archive.writestr(name, "text")


def _with(path: Path, **arrays: np.ndarray) -> None:
    with np.load(path) as known:
        np.savez(path, **{**known, **arrays}, allow_pickle=True)


def _facts(**facts: Any) -> np.ndarray:
    return np.array(json.dumps({"history": [{"loss": 1.0}], "best_epoch": 0} | facts))


def _of_another_model(path: Path) -> None:
    other = _compiled(units=5)
    save(path, capture(other, State([{"loss": 1.0}], 0, other.get_weights())))


@pytest.mark.parametrize(
    "spoil",
    [
        _cut,
        _flip,
        _empty,
        _text,
        _zip_of_text,
        _of_another_model,
        lambda path: zipfile.ZipFile(path, "w").close(),
        lambda path: _with(path, facts=np.array("{")),
        lambda path: _with(path, facts=np.array("[1]")),
        lambda path: _with(path, facts=_facts(best_epoch=7)),
        lambda path: _with(path, facts=_facts(epochs=7)),
        lambda path: _with(path, **{"model.0": np.array([{}], object)}),
        lambda path: _with(path, **{"best.0": np.zeros((9, 9))}),
    ],
    ids=[
        *("cut", "flipped byte", "empty", "text", "zip of text", "of another model", "empty zip", "cut facts"),
        *("facts of another kind", "epoch that is not there", "unknown fact", "pickled", "other best weights"),
    ],
)
def test_a_damaged_state_is_named_and_training_begins_anew(
    spoil: Spoil, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = _compiled()
    path = tmp_path / "state.npz"
    save(path, capture(model, State([{"loss": 1.0}], 0, model.get_weights())))
    shutil.copy(path, tmp_path / "good.npz")
    fresh = _compiled()
    before = fresh.get_weights()
    spoil(path)
    with caplog.at_level(logging.WARNING, "pipeline"):
        assert load(path, fresh) is None
    assert f"{path} cannot be read (" in caplog.text
    assert caplog.text.rstrip().endswith("the training begins anew")
    assert all(map(np.array_equal, before, fresh.get_weights()))  # Nothing of it was taken over.
    assert load(tmp_path / "good.npz", fresh) is not None
    assert not all(map(np.array_equal, before, fresh.get_weights()))


# Model files, for backbone=from_model and pipeline.convert, and weights files.


def test_what_unpacks_to_more_than_there_can_be_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "my.keras"
    _blanks(path)
    assert path.stat().st_size < MAX_DESCRIPTION / 500
    message = _explained(lambda: check_keras_file(path, "model"))
    assert message.startswith(f"model={path}: holds config.json, which unpacks to 0.1 GB; it may have 0.1 GB. Save")
    _network(path)
    monkeypatch.setattr("psutil.virtual_memory", lambda: type("Memory", (), {"available": 5000}))
    message = _explained(lambda: check_keras_file(path, "model"))
    assert "holds model.weights.h5, which unpacks to 0.0 GB; it may have 0.0 GB. Use a smaller model, or" in message


def _cut_weights(path: Path) -> None:
    keras.applications.VGG16(weights=None, include_top=False).save_weights(path)
    _cut(path)


def _network(path: Path, *more: keras.Layer) -> None:
    stack = [layers.Input((8, 8, 1)), layers.Conv2D(4, 3), *more, layers.Flatten(), layers.Dense(3)]
    keras.Sequential(stack).save(path)


def _rewritten(name: str, content: Callable[[bytes], bytes | None]) -> Spoil:
    """Gives a file in the archive another content; None leaves it out."""

    def spoil(path: Path) -> None:
        with zipfile.ZipFile(path) as archive:
            files: dict[str, bytes | None] = {file: archive.read(file) for file in archive.namelist()}
            files[name] = content(archive.read(name))
        with zipfile.ZipFile(path, "w") as archive:
            for file, data in files.items():
                if data is not None:
                    archive.writestr(file, data)

    return spoil


def _blanks(path: Path) -> None:
    """A description of the model that unpacks to more than any has."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("config.json", b" " * (MAX_DESCRIPTION + 1))


def _calls_the_system(config: bytes) -> bytes:
    model = json.loads(config)
    owned = {"module": "os", "class_name": "system", "config": {"command": "touch owned"}, "registered_name": "system"}
    model["config"]["layers"].insert(1, owned)
    return json.dumps(model).encode()


@pytest.mark.parametrize(
    "spoil",
    [
        Path.unlink,
        _cut,
        _empty,
        _text,
        _folder,
        lambda path: zipfile.ZipFile(path, "w").close(),
        _rewritten("config.json", lambda config: None),
        _rewritten("config.json", lambda config: b"[]"),
        _rewritten("config.json", lambda config: b"[" * 100_000 + b"]" * 100_000),
        _blanks,
        _rewritten("config.json", _calls_the_system),
        _rewritten("model.weights.h5", lambda weights: None),
        _rewritten("model.weights.h5", lambda weights: b""),
        lambda path: _network(path, layers.Lambda(lambda x: 2 * x)),
    ],
    ids=[
        *(
            "missing",
            "cut",
            "empty",
            "text",
            "folder",
            "empty zip",
            "no configuration",
            "configuration of another kind",
            "nested configuration",
            "blanks",
        ),
        *("calls the system", "no weights", "empty weights", "Lambda"),
    ],
)
def test_a_file_that_is_no_model_is_named(spoil: Spoil, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "my.keras"
    _network(path)
    spoil(path)
    monkeypatch.chdir(tmp_path)
    assert _explained(lambda: FromModel(path=str(path)).build(channels=1)).startswith(f"backbone.path={path}: ")
    before = sorted(tmp_path.iterdir())
    code, said = _run(convert.main, f"model={path}", "way=resize_input", monkeypatch=monkeypatch)
    assert code == 2
    assert said.startswith(f"model={path}: ")
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    "make",
    [
        _empty,
        _text,
        _folder,
        _cut_weights,
        lambda path: keras.Sequential([layers.Input((4,)), layers.Dense(3)]).save_weights(path),
        lambda path: np.save(path.open("wb"), np.zeros(3)),
    ],
    ids=["empty", "text", "folder", "cut", "of another model", "array"],
)
def test_a_file_that_holds_no_weights_of_the_network_is_named(make: Spoil, tmp_path: Path) -> None:
    path = tmp_path / "my.weights.h5"
    make(path)

    def build() -> None:
        KerasApplication(application="VGG16", weights=str(path)).build(channels=3)

    assert _explained(build).startswith(f"backbone.weights={path}: ")


# Stores, directories and names.


def _run(main: Callable[[], None], *arguments: str, monkeypatch: pytest.MonkeyPatch) -> tuple[int, str]:
    """Exit code of a command and the line in which it says what is wrong; as users start it, but in this process."""
    said: list[str] = []
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")  # The command sets it in this process, for good.
    monkeypatch.setattr(sys, "argv", ["command", *arguments])
    monkeypatch.setattr(sys.stderr, "write", said.append)
    with pytest.raises(SystemExit) as ended:
        main()
    text = "".join(said)
    assert "Traceback" not in text
    (line,) = [line for line in text.splitlines() if line.startswith("Error: ")]
    return int(str(ended.value.code)), line.removeprefix("Error: ")


@pytest.fixture(scope="module")
def new_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output_path = tmp_path_factory.mktemp("store")
    open_store(Tracking(), output_path)
    return output_path / STORE_FILE


def _of_an_older_mlflow(path: Path) -> None:
    with sqlite3.connect(path) as database:
        database.execute("UPDATE alembic_version SET version_num = 'bd07f7e963c5'")


def _of_a_newer_mlflow(path: Path) -> None:
    with sqlite3.connect(path) as database:
        database.execute("UPDATE alembic_version SET version_num = 'ffffffffffff'")


HEALTHY = "this is not a healthy SQLite database that can be written to: "


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_text, HEALTHY + "file is not a database. It was left as it is."),
        (lambda path: path.write_bytes(path.read_bytes()[:100_000]), HEALTHY + "database disk image is malformed."),
        (lambda path: path.write_bytes(path.read_bytes()[:50]), HEALTHY),
        (lambda path: path.write_bytes(path.read_bytes()[:9000] + b"x" * 60_000 + path.read_bytes()[69_000:]), HEALTHY),
        (_folder, HEALTHY + "unable to open database file."),
        (
            _of_an_older_mlflow,
            "this store is of another MLflow than",
        ),
        (_of_a_newer_mlflow, "this store is of another MLflow than"),
    ],
    ids=["text", "cut", "a header alone", "overwritten", "folder", "older", "newer"],
)
def test_a_store_that_cannot_be_used_is_named_and_left_alone(
    spoil: Spoil, message: str, new_store: Path, tmp_path: Path
) -> None:
    path = tmp_path / STORE_FILE
    shutil.copy(new_store, path)
    spoil(path)
    before = path.read_bytes() if path.is_file() else None
    said = _explained(lambda: open_store(Tracking(), tmp_path))
    assert said.startswith(f"tracking.uri=sqlite:///{path}: {message}")
    assert before == (path.read_bytes() if path.is_file() else None)


@pytest.mark.slow
@pytest.mark.parametrize("is_named", [False, True], ids=["local", "a database"])
def test_a_store_with_the_tables_of_mlflow_3_0_is_brought_up_to_date(is_named: bool, tmp_path: Path) -> None:
    """As MLflow does by itself where tables are missing. They are made by MLflow's own migrations up to then."""
    uri = f"sqlite:///{tmp_path / STORE_FILE}"
    engine = create_sqlalchemy_engine(uri)
    initial_models.Base.metadata.create_all(engine)
    migrations = _get_alembic_config(uri)
    with engine.begin() as connection:
        migrations.attributes["connection"] = connection
        alembic.command.upgrade(migrations, "770bee3ae1dd")
        connection.exec_driver_sql(
            "INSERT INTO experiments (experiment_id, name, lifecycle_stage) VALUES (7, 'old', 'active')"
        )
    engine.dispose()
    with closing(sqlite3.connect(tmp_path / STORE_FILE)) as store:
        before = list(store.iterdump())
    for _ in range(2):  # Kept once, and as it was the first time.
        open_store(Tracking(uri=uri if is_named else None), tmp_path)
        assert experiment_for("old", Tracking(), tmp_path) == "7"
        with closing(sqlite3.connect(tmp_path / f"{STORE_FILE}.before-mlflow-{mlflow.__version__}")) as kept:
            assert list(kept.iterdump()) == before


def test_an_empty_file_becomes_a_store(tmp_path: Path) -> None:
    (tmp_path / STORE_FILE).touch()
    open_store(Tracking(), tmp_path)
    assert [experiment.name for experiment in mlflow.MlflowClient().search_experiments()] == ["Default"]


@pytest.mark.parametrize("uri", ["nonsense://host", "sqlite:////proc/no/such.db", "sqlite:////dev/full", "http://[::1"])
def test_an_address_without_a_store_is_named(uri: str, tmp_path: Path) -> None:
    assert f"tracking.uri={uri}: " in _explained(lambda: open_store(Tracking(uri=uri), tmp_path))


@pytest.mark.parametrize("experiment", ["../../x", "..", ".", "/etc/passwd", "a/../../b", "..\\x", "...", "x" * 200])
def test_an_experiments_files_stay_in_the_output_directory(experiment: str, new_store: Path, tmp_path: Path) -> None:
    shutil.copy(new_store, tmp_path / STORE_FILE)
    tracking = Tracking(experiment=experiment)
    open_store(tracking, tmp_path)
    with mlflow.start_run(experiment_id=experiment_for(experiment, tracking, tmp_path)) as run:
        mlflow.log_text("text", "file.txt")
    (written,) = (path.resolve() for path in tmp_path.rglob("file.txt"))
    assert written.relative_to(tmp_path.resolve()).parts[0] == "artifacts"
    assert written.relative_to(tmp_path.resolve()).parts[2] == run.info.run_id


@pytest.mark.parametrize("main", [train.main, plan.main], ids=["train", "plan of a sweep"])
@pytest.mark.parametrize("output_dir", ["file", "file/deeper", "/proc/no", "x" * 300])
def test_an_output_directory_that_cannot_be_is_named(
    main: Callable[[], None], output_dir: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    code, said = _run(main, f"output_dir={output_dir}", "hydra.mode=MULTIRUN", monkeypatch=monkeypatch)
    assert code == 2
    assert output_dir in said
    assert "output_dir=PATH" in said
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


SNAPSHOT = ROOT / "experiments" / "study" / "heads.parquet"


@pytest.mark.parametrize(
    ("spoil", "rule"),
    [
        (Path.unlink, "cannot be read"),
        (_cut, "cannot be read"),
        (_empty, "cannot be read"),
        (_text, "cannot be read"),
        (_folder, "cannot be read"),
        (lambda path: pd.read_parquet(path).drop(columns="tags.dataset").to_parquet(path), "has no tags.dataset"),
        (
            lambda path: pd.read_parquet(path).iloc[:0].to_parquet(path),
            "holds 0 runs; there must be 1 to 10,000. Name a runs.parquet",
        ),
        (
            lambda path: pd.read_parquet(path).assign(**{"params.seed": "one"}).to_parquet(path),
            "has 'one' in params.seed",
        ),
        (
            lambda path: pd.read_parquet(path).assign(**{"answers.test": b"abcdef"}).to_parquet(path),
            "has b'abcdef' in answers.test",
        ),
        (
            lambda path: pd.read_parquet(path).assign(**{"answers.test": "right"}).to_parquet(path),
            "has 'right' in answers.test",
        ),
    ],
    ids=["missing", "cut", "empty", "text", "folder", "no dataset", "no run", "seeds", "answers", "answers of text"],
)
def test_a_damaged_snapshot_is_named(spoil: Spoil, rule: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "runs.parquet"
    shutil.copy(SNAPSHOT, path)
    spoil(path)
    code, said = _run(compare.main, f"snapshot={path}", f"output_dir={tmp_path / 'outputs'}", monkeypatch=monkeypatch)
    assert code == 2
    assert said.startswith(f"snapshot={path}: {rule}")
    assert not (tmp_path / "outputs").exists()


@pytest.mark.parametrize("name", ["it's", "../../x", "' or tags.head != '", "a`b", 'a"b'])
def test_names_of_studies_are_no_part_of_a_query(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    quoted = name.replace("'", "\\'")
    for arguments in ([f"study='{quoted}'"], ["study=heads", f"sweep='{quoted}'"]):
        code, said = _run(compare.main, *arguments, f"output_dir={tmp_path}", monkeypatch=monkeypatch)
        assert code == 2
        rule = "must be a name of at most 200 bytes, without slashes and quotes"
        assert said.startswith(f"{arguments[-1].partition('=')[0]}={name}: {rule}")


# What somebody hands on as a study or an arm.

CODE = {
    "callback": "hydra: {callbacks: {mine: {_target_: shutil.copy, src: here, dst: owned}}}",
    "sweeper": "hydra: {sweeper: {_target_: shutil.copy, src: here, dst: owned}}",
    "logging": "hydra: {job_logging: {handlers: {console: {(): shutil.copy, src: here, dst: owned}}}}",
    "head": "head: {_target_: shutil.copy, src: here, dst: owned}",
    "in a list": "question: [{_target_: shutil.copy, src: here, dst: owned}]",
    "resolver": 'hydra: {callbacks: {mine: "${oc.create:{_target_:shutil.copy,src:here,dst:owned}}"}}',
    "resolver by parts": 'hydra: {sweeper: {params: {seed: "${${study}.env:HOME}"}}}',
    "environment": 'output_dir: "${oc.env:HOME}"',
    "log file": "hydra: {job_logging: {handlers: {file: {filename: owned}}}}",
    "launcher": "hydra: {launcher: {setup: [touch owned]}}",
    "swept": "hydra: {mode: MULTIRUN, sweeper: {params: {hydra.run.dir: owned}}}",
    "added": "hydra: {mode: MULTIRUN, sweeper: {params: {+hydra.job.env_set.A: owned}}}",
    "dotted": "hydra.run: {dir: owned}",
    "package": "defaults: [/arm@hydra.run: theirs]",
    "file beside it": "defaults: [/../study/payload]",
    "file elsewhere": "defaults: [{/head: ../../payload}]",
    "Hydra's own group": "defaults: [{override /hydra/job_logging: evil}]",
    "another source": "defaults: ['file:///payload']",
    "server": "tracking: {uri: 'http://127.0.0.1:1'}",
    "server as one key": "tracking.uri: http://127.0.0.1:1",
    "server of the environment": "defaults: [{override /tracking: server}]",
    "servers swept": "hydra: {mode: MULTIRUN, sweeper: {params: {tracking.uri: 'http://127.0.0.1:1'}}}",
    "server swept": "hydra: {mode: MULTIRUN, sweeper: {params: {tracking: server}}}",
    "elsewhere": "output_dir: owned",
    "python": "question: !!python/object/apply:shutil.copy [here, owned]",
    "no YAML": "question: [",
    "a list": "- 1",
    "binary": "question: \0",
}


@pytest.mark.parametrize("group", ["study", "arm"])
@pytest.mark.parametrize("content", CODE.values(), ids=CODE)
def test_a_study_is_data(content: str, group: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / group).mkdir()
    (tmp_path / "here").touch()
    (tmp_path / group / "theirs.yaml").write_text(f"# @package _global_\n{content}\n")
    searchpath = f"hydra.searchpath=[experiments://{tmp_path}]"
    code, said = _run(plan.main, f"{group}=theirs", searchpath, monkeypatch=monkeypatch)
    assert code == 2
    assert "theirs" in said
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([group, "here"])


@pytest.mark.parametrize("group", ["study", "arm", "head"])
def test_an_option_is_no_path(group: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file outside of the groups' folders would be read as one of the program's own."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "payload.yaml").write_text(
        "# @package _global_\nhydra: {callbacks: {mine: {_target_: shutil.copy, src: here, dst: owned}}}\n"
    )
    (tmp_path / "here").touch()
    option = os.path.relpath(tmp_path / "payload", CONFIG_DIR / group)
    code, said = _run(plan.main, f"{group}={option}", monkeypatch=monkeypatch)
    assert code == 2
    assert said.startswith(f"{group}={option}: an option is the name of a file in the folder of its group, not a path")
    assert not (tmp_path / "owned").exists()


def test_what_lies_beside_studies_and_arms_is_never_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder of studies that is handed on may hold a group of Hydra's own: a log file that empties another."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "hydra" / "job_logging").mkdir(parents=True)
    (tmp_path / "kept").write_text("still here")
    handler = "{class: logging.FileHandler, filename: kept, mode: w}"
    (tmp_path / "hydra" / "job_logging" / "evil.yaml").write_text(
        f"version: 1\nhandlers: {{file: {handler}}}\nroot: {{handlers: [file]}}\n"
    )
    searchpath = f"hydra.searchpath=[experiments://{tmp_path}]"
    code, _ = _run(plan.main, "hydra/job_logging=evil", searchpath, monkeypatch=monkeypatch)
    assert code == 2
    assert (tmp_path / "kept").read_text() == "still here"
