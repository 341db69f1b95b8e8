"""Image folders: what Pillow makes of each kind of file, what is refused, and batches of natural sizes."""

from __future__ import annotations

import errno
import io
import logging
import math
import os
import re
import shutil
import socket
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import chdir
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds
from PIL import Image, UnidentifiedImageError

from pipeline.common.condition import Mode
from pipeline.common.errors import ConfigError
from pipeline.data import source
from pipeline.data.batches import Data
from pipeline.data.image_folder import pixels
from pipeline.data.natural_sizes import NaturalSplit, to_step
from pipeline.data.settings import Cache, Corrupt, Dataset, Duplicates, ImageFolder
from pipeline.data.splits import DecodedSplit
from pipeline.data.tf_data import resize
from pipeline.heads import HEADS
from pipeline.heads.base import Head
from pipeline.heads.global_pools import GlobalAveragePool
from pipeline.models.backbones.base import Backbone
from pipeline.models.backbones.small import SmallFcn
from pipeline.models.build import build_model
from pipeline.models.predict import predict
from pipeline.other_sizes.measure import check_plan, measure_sizes
from pipeline.other_sizes.plan import SizePlan
from pipeline.other_sizes.settings import SizeProbe
from pipeline.training.fit import fit
from pipeline.training.pairing import pairing_of
from pipeline.training.settings import KeepWeights, Training
from tests.conftest import typed
from tests.program.forked import run_forked

SIZES = ((6, 6), (6, 9), (12, 8))
"""Heights and widths in the small folder."""


def _write(path: Path, image: Image.Image, **settings: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **settings)


def _noise(height: int, width: int, bright: bool, generator: np.random.Generator) -> Image.Image:
    low, high = (128, 256) if bright else (0, 128)
    return Image.fromarray(generator.integers(low, high, (height, width, 3), np.uint8))


def _make_folder(folder: Path, of_each: int = 7) -> Path:
    """Dark and bright noise, `of_each` images of each class and size in train and 2 in test."""
    generator = np.random.default_rng(0)
    for split, count in (("train", of_each), ("test", 2)):
        for name in ("bright", "dark"):
            for height, width in SIZES:
                for index in range(count):
                    image = _noise(height, width, name == "bright", generator)
                    _write(folder / split / name / f"{height}x{width}_{index}.png", image)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """2 classes × 3 sizes × 7 images to train on, and × 2 to test on."""
    return _make_folder(tmp_path_factory.mktemp("image_folder") / "noise")


@pytest.fixture(autouse=True)
def _decode_anew() -> Iterator[None]:
    yield
    source.forget()


def _load(folder: Path, seed: int = 0, **settings: Any) -> Data:
    settings = {"validation_fraction": 0.0, **settings}
    return source.load(ImageFolder(path=str(folder), **settings), seed, folder / "cache")


def _encoded(image: Image.Image, kind: str = "png", **settings: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **settings)
    return file.getvalue()


def _palette(**settings: Any) -> bytes:
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 200, 100, 0])
    image.putdata([0, 1])
    return _encoded(image, **settings)


RGBA = Image.new("RGBA", (1, 1), (255, 100, 0, 128))
LUMA = (299 * 255 + 587 * 100) / 1000  # 134.9: gray of an orange pixel (255, 100, 0)
# Laid over gray level 40 with an opacity of 128 / 255.
OVER_40 = [round((value * 128 + 40 * 127) / 255) for value in (255, 100, 0)]  # 148, 70, 20
KINDS = [
    # name, file, pixels as RGB, pixels as grayscale; background 40
    ("grayscale", _encoded(Image.new("L", (1, 1), 77)), [[77, 77, 77]], [77]),
    ("grayscale with alpha", _encoded(Image.new("LA", (1, 1), (255, 0))), [[40, 40, 40]], [40]),
    ("bilevel", _encoded(Image.new("1", (1, 1), 1)), [[255, 255, 255]], [255]),
    ("RGB", _encoded(Image.new("RGB", (1, 1), (255, 100, 0))), [[255, 100, 0]], [round(LUMA)]),
    ("RGBA", _encoded(RGBA), [OVER_40], [round(sum(np.array([299, 587, 114]) * OVER_40) / 1000)]),
    ("palette", _palette(), [[10, 20, 30], [200, 100, 0]], [round(18.15), round(118.5)]),
    ("palette with a transparent color", _palette(transparency=1), [[10, 20, 30], [40, 40, 40]], [18, 40]),
    ("RGB with a transparent color", _encoded(Image.new("RGB", (1, 1), (1, 2, 3)), transparency=(1, 2, 3)),
     [[40, 40, 40]], [40]),
    # 257 · 200 is 200 of 255 in 16 bits.
    ("16 bits", _encoded(Image.fromarray(np.array([[257 * 200]], np.uint16))), [[200, 200, 200]], [200]),
    # No ink but all of the cyan: red is gone.
    ("CMYK JPEG", _encoded(Image.new("CMYK", (8, 8), (255, 0, 0, 0)), "jpeg", quality=100), [[0, 255, 255]] * 64,
     [round(0.587 * 255 + 0.114 * 255)] * 64),
]  # fmt: skip


@pytest.mark.parametrize(("file", "rgb", "gray"), [kind[1:] for kind in KINDS], ids=[kind[0] for kind in KINDS])
def test_every_kind_of_image_decodes_to_its_pixels(file: bytes, rgb: list[list[int]], gray: list[int]) -> None:
    assert pixels(file, 3, background=40).reshape(-1, 3).tolist() == rgb
    decoded = pixels(file, 1, background=40)
    assert (decoded.dtype, decoded.shape[2]) == (np.dtype(np.uint8), 1)
    assert decoded.ravel().tolist() == gray


def test_photographs_are_turned_upright() -> None:
    image = Image.fromarray(np.array([[0, 100, 200]], np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6  # The camera was held so that the picture has to be turned by 90° clockwise.
    assert pixels(_encoded(image, exif=exif), 1, background=0).ravel().tolist() == [0, 100, 200]
    assert pixels(_encoded(image, exif=exif), 1, background=0).shape == (3, 1, 1)


def test_facts_come_from_the_folder(folder: Path) -> None:
    facts = source.describe(ImageFolder(path=str(folder), image_size=[10, 12], channels=1))
    assert (facts.name, facts.image_shape, facts.class_names) == ("noise", (10, 12, 1), ("bright", "dark"))
    assert str(facts.trained_size) == "10×12"
    assert str(source.describe(ImageFolder(path=str(folder), native_size=True)).trained_size) == "natural, about 32×32"


def test_images_of_one_size_are_resized_and_labelled(folder: Path) -> None:
    data = _load(folder, image_size=[6, 9])
    assert isinstance(data.train_split, DecodedSplit)
    assert (data.train_split.images.shape, len(data.test_split)) == ((2 * 3 * 7, 6, 9, 3), 2 * 3 * 2)
    # Bright noise is label 0, its mean far above 128 and that of dark noise far below.
    means = data.train_split.images.mean(axis=(1, 2, 3))
    assert np.array_equal(means < 128, data.train_split.labels == 1)
    assert sorted(data.train_split.labels) == [0] * 21 + [1] * 21


def test_both_ways_hold_the_same_images_in_the_same_order(folder: Path) -> None:
    """So that a seed holds out the same validation images at one size and at natural sizes."""
    fixed, natural = _load(folder, image_size=[12, 8]), _load(folder, native_size=True)
    assert isinstance(fixed.train_split, DecodedSplit)
    assert isinstance(natural.train_split, NaturalSplit)
    assert fixed.train_split.digest == natural.train_split.digest != natural.test_split.digest
    assert np.array_equal(fixed.train_split.labels, natural.train_split.labels)
    at_that_size = [index for index, image in enumerate(natural.train_split.images) if image.shape == (12, 8, 3)]
    assert len(at_that_size) == 14
    for index in at_that_size:
        assert np.array_equal(fixed.train_split.images[index], natural.train_split.images[index])


def _refused(folder: Path, message: str, **settings: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        _load(folder, **settings)
    assert message in str(caught.value)


def test_folders_that_do_not_serve_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    _refused(folder, f"dataset.path={folder}: is not a folder. Name one that holds train/CLASS/*.png and test/CLASS/")
    folder.mkdir()
    _refused(folder, f"dataset.train_split=train: is not a folder in {folder}, which has none. Put the images of each")
    (folder / "train").mkdir()
    _refused(folder, f"dataset.test_split=test: is not a folder in {folder}, which has train. Put the images of each c")
    (folder / "test").mkdir()
    _refused(folder, f"{folder}: train holds no image: there is no .png, .jpg, .jpeg file in a folder of a class. Put")
    _write(folder / "train" / "a" / "1.png", Image.new("L", (4, 4)))
    _refused(folder, f"{folder}: test holds no image")
    _write(folder / "test" / "a" / "1.PNG", Image.new("L", (4, 5)))
    _write(folder / "test" / "b" / "1.jpeg", Image.new("L", (4, 5)))
    _refused(folder, "train and test hold different classes: one of them alone has b. Give both the same folders of cl")
    (folder / "train" / "b").mkdir()
    _refused(folder, "holds no image of b in train: there is no .png, .jpg, .jpeg file. Put images there, or delete")
    _write(folder / "train" / "b" / "1.jpg", Image.new("L", (4, 4)))
    _load(folder)
    _refused(folder, "dataset.test_split=train: is dataset.train_split too", test_split="train")


def test_a_class_whose_name_no_report_can_hold_is_refused_before_anything_is_trained(tmp_path: Path) -> None:
    """A file system takes 255 bytes, and an escape for what cannot be printed is longer."""
    for name, shown in (("x" * 201, "x" * 201), ("\x1b" * 51, "\\x1b" * 51)):  # 4 · 51 = 204 bytes.
        folder = tmp_path / shown[:1]
        for split in ("train", "test"):
            for of_class in ("a", name):
                _write(folder / split / of_class / "0.png", Image.new("RGB", (8, 8)))
        with pytest.raises(
            ConfigError, match=re.escape(f"has a class '{shown}'; the name of a class must have 1 to 200")
        ):
            source.describe(ImageFolder(path=str(folder)))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"channels": 4}, "dataset.channels=4: must be 1 (grayscale) or 3 (RGB). Use dataset.channels=3."),
        ({"background": 256}, "dataset.background=256: must be a gray level in [0, 255]"),
        ({"image_size": None}, "dataset.image_size=None: is needed: images of a folder may vary in size"),
        ({"cache": Cache.disk}, "dataset.cache=disk: an image folder is decoded once, into memory. Use dataset."),
        ({"cache": Cache.none, "native_size": True}, "dataset.cache=none: images of natural size"),
        ({"data_dir": "x"}, "dataset.data_dir=x: has no meaning for an image folder, which lies where dataset.path"),
        ({"max_sizes": 0}, "dataset.max_sizes=0: must be at least 1"),
        ({"size_step": 0}, "dataset.size_step=0: must be at least 1. Use for example dataset.size_step=16."),
    ],
    ids=str,
)  # fmt: skip
def test_wrong_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        ImageFolder(path=".", **settings)
    assert message in str(caught.value)


def _contents(data: Data, batch_size: int = 5) -> Counter[tuple[int, bytes]]:
    """How often an epoch of training brings each image with its label."""
    return Counter(
        (int(label), image.tobytes())
        for images, labels in data.train(batch_size, epochs=1).as_numpy_iterator()
        for image, label in zip(images, labels, strict=True)
    )


@pytest.mark.parametrize(("image_format", "is_read"), [("PNG", True), ("WEBP", True), ("EPS", False), ("PCX", False)])
def test_a_file_is_one_of_the_formats_that_are_meant_whatever_its_name(image_format: str, is_read: bool) -> None:
    """Pillow goes by content: a file named .png that is an EPS would start Ghostscript."""
    content = io.BytesIO()
    Image.new("RGB", (4, 3), (10, 20, 30)).save(content, image_format)
    if is_read:
        assert pixels(content.getvalue(), 3, 0).shape == (3, 4, 3)
    else:
        with pytest.raises(UnidentifiedImageError):
            pixels(content.getvalue(), 3, 0)


@pytest.mark.long
def test_unreadable_files_are_refused_or_skipped(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = _make_folder(tmp_path / "noise")
    ways: tuple[dict[str, Any], ...] = ({}, {"native_size": True})
    whole = [_contents(_load(folder, **settings)) for settings in ways]
    source.forget()
    (folder / "train" / "dark" / "notes.png").write_text("no image")
    cut_off = _encoded(_noise(40, 40, True, np.random.default_rng(1)), "jpeg")[:-300]
    (folder / "train" / "bright" / "cut_off.jpg").write_bytes(cut_off)
    _refused(folder, "dataset.corrupt=refuse: 2 of the 44 files of train cannot be read as images: ")
    _refused(folder, "train/bright/cut_off.jpg (OSError: ")
    _refused(folder, "Mend or delete them, or leave them out with dataset.corrupt=skip.")
    for settings, expected in zip(ways, whole, strict=True):
        caplog.clear()
        with caplog.at_level(logging.WARNING, logger="pipeline"):
            data = _load(folder, corrupt=Corrupt.skip, **settings)
        said = "\n".join(record.getMessage() for record in caplog.records)
        # The reason is the same each time: not "cannot identify image file <_io.BytesIO object at 0x7f2b…>".
        assert "Skipped: train/dark/notes.png (it is none of PNG, JPEG, WEBP, GIF, BMP, TIFF)" in said
        assert "Skipped 2 of the 44 files of train" in said
        assert len(data.train_split) == len(data.train_indices) == 42
        assert _contents(data) == expected
    for file in (folder / "test" / "dark").iterdir():
        file.write_bytes(b"no image")
    source.forget()
    with pytest.raises(ConfigError, match="dataset.corrupt=skip: test has no readable image of dark. Put images there"):
        _load(folder, corrupt=Corrupt.skip)


def test_files_that_are_left_out_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = _make_folder(tmp_path / "noise", of_each=1)
    _write(folder / "train" / "dark" / "one.webp", Image.new("L", (4, 4)))
    with caplog.at_level(logging.WARNING, logger="pipeline"):
        data = _load(folder)
    assert "Left out of train, neither .png, .jpg, .jpeg: train/dark/one.webp" in caplog.text
    assert len(data.train_split) == 6


def test_the_digest_is_that_of_the_files(tmp_path: Path) -> None:
    folder = _make_folder(tmp_path / "noise", of_each=1)
    first = _load(folder).train_split.digest
    source.forget()
    assert _load(folder, image_size=[5, 5]).train_split.digest == first
    _write(folder / "train" / "dark" / "6x6_0.png", Image.new("RGB", (6, 6)))
    source.forget()
    assert _load(folder).train_split.digest != first


def _said(folder: Path, caplog: pytest.LogCaptureFixture, **settings: Any) -> tuple[Data, list[str]]:
    """What is loaded, and what the user is told of it."""
    source.forget()
    caplog.clear()
    with caplog.at_level(logging.INFO, logger="pipeline"):
        data = _load(folder, **settings)
    return data, [record.getMessage() for record in caplog.records]


@pytest.mark.parametrize("hidden", ["train/.ipynb_checkpoints", ".thumbnails/dark", "train/dark/._1.png", "__MACOSX/a"])
def test_what_programs_leave_in_folders_is_left_out(
    hidden: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = _make_folder(tmp_path / "noise", of_each=1)
    expected = _load(folder).train_split.digest
    _write(folder / hidden if hidden.endswith("png") else folder / hidden / "1.png", Image.new("L", (4, 4)))
    data, said = _said(folder, caplog)
    assert (data.train_split.digest, data.facts.class_names, said) == (expected, ("bright", "dark"), [])


def test_names_that_are_not_utf_8_are_read_and_can_be_written_anywhere(tmp_path: Path) -> None:
    folder = _make_folder(tmp_path / "noise", of_each=1)
    for split in ("train", "test"):
        (folder / split / "dark").rename(os.fsdecode(os.fsencode(folder / split) + b"/d\xe4rk"))
    file = Path(os.fsdecode(os.fsencode(folder / "train") + b"/d\xe4rk/caf\xe9\n.png"))
    _write(file, Image.new("RGB", (4, 4)))
    data = _load(folder, native_size=True)
    assert (data.facts.class_names, len(data.train_split)) == (("bright", "d\\udce4rk"), 7)
    assert isinstance(data.train_split, NaturalSplit)
    assert "train/d\\udce4rk/caf\\udce9\\n.png" in data.train_split.files
    file.write_bytes(b"")
    source.forget()
    _refused(folder, "read as images: train/d\\udce4rk/caf\\udce9\\n.png (it is none of PNG")


def test_files_that_have_no_end_are_named_and_not_read(tmp_path: Path) -> None:
    folder = _make_folder(tmp_path / "noise", of_each=1)
    dark = folder / "train" / "dark"
    os.mkfifo(dark / "fifo.png")
    (dark / "zero.png").symlink_to("/dev/zero")
    (dark / "nowhere.png").symlink_to("nowhere")
    (dark / "folder.png").mkdir()
    with (dark / "huge.png").open("wb") as file:
        file.truncate(3 * 10**9)
    with socket.socket(socket.AF_UNIX) as listening, chdir(dark):
        listening.bind("socket.png")
    with pytest.raises(ConfigError) as caught:
        _load(folder)
    named = dict(re.findall(r"train/dark/(\w+).png \((.*?)\)", str(caught.value)))
    irregular = dict.fromkeys(("fifo", "zero", "folder", "socket"), "it is no regular file")
    assert named == {**irregular, "nowhere": "No such file or directory", "huge": "it has 3.0 GB"}
    assert len(_load(folder, corrupt=Corrupt.skip).train_split) == 6


def _without_splits(folder: Path, of_each: int = 10) -> Path:
    generator = np.random.default_rng(0)
    for name, count in (("bright", of_each), ("dark", 2 * of_each)):
        for index in range(count):
            _write(folder / name / f"{index}.png", _noise(4, 4, name == "bright", generator))
    return folder


def test_the_test_images_of_a_folder_without_splits_are_the_same_for_every_seed(tmp_path: Path) -> None:
    folder = _without_splits(tmp_path / "noise")
    _refused(folder, "which has bright, dark. Use dataset.test_fraction=0.2 to test on a fifth of each class")
    data = [_load(folder, seed, test_fraction=0.2, validation_fraction=0.25, image_size=[4, 4]) for seed in (0, 1)]
    assert data[0].facts.class_names == ("bright", "dark")
    for each in data:
        # A fifth of 10 and 20, and a quarter of the other 8 and 16.
        assert np.bincount(each.test_split.labels).tolist() == [2, 4]
        assert np.bincount(each.train_split.labels[each.validation_indices]).tolist() == [2, 4]
        assert len(each.train_indices) == 18
    assert not np.array_equal(data[0].validation_indices, data[1].validation_indices)
    half = _load(folder, test_fraction=0.5)
    digests = [(each.train_split.digest, each.test_split.digest) for each in (*data, half)]
    assert digests[0] == digests[1]
    assert len({*digests[1], *digests[2]}) == 4
    splits = [split for split in (data[0].train_split, data[0].test_split) if isinstance(split, DecodedSplit)]
    assert len({image.tobytes() for split in splits for image in split.images}) == 30


def test_test_fractions_that_do_not_serve_are_refused_with_one_that_does(tmp_path: Path) -> None:
    folder = _without_splits(tmp_path / "noise", of_each=2)
    _refused(folder, "draws 1 of the 6 images of 2 classes", test_fraction=0.1)
    _refused(folder, "draws 5 of the 6 images of 2 classes", test_fraction=0.9)
    # 0.2 · 6 = 1.2 would be one image for two classes.
    _refused(folder, "Use for example dataset.test_fraction=0.333333.", test_fraction=0.9)
    assert len(_load(folder, test_fraction=0.333333).test_split) == 2
    (folder / "dark" / "more").mkdir()
    _write(folder / "rare" / "1.png", Image.new("L", (4, 4)))
    _refused(folder, "too few are in rare (1). Put more images there, or", test_fraction=0.2)
    _refused(tmp_path, "too few are in noise (0). Put more images there, or", test_fraction=0.2)
    with_splits = _make_folder(tmp_path / "splits", of_each=1)
    _refused(with_splits, "has train and test. Use dataset.test_fraction=null, or dataset.path=", test_fraction=0.2)
    shutil.rmtree(with_splits / "test")
    _refused(with_splits, f"dataset.path={with_splits / 'train'} dataset.test_fraction=0.2.")
    assert len(_load(with_splits / "train", test_fraction=0.34).test_split) == 2


def test_a_folder_of_validation_images_is_used(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = _make_folder(tmp_path / "noise", of_each=2)
    without, said = _said(folder, caplog, validation_fraction=0.2)
    assert (len(without.train_indices), len(without.validation_indices), said) == (10, 2, [])
    for index in range(3):
        _write(folder / "Val" / "dark" / f"{index}.png", Image.new("RGB", (4, 4), (index, 0, 0)))
    for natural in (False, True):
        data, said = _said(folder, caplog, validation_fraction=0.1, native_size=natural)
        assert (len(data.train_indices), len(data.validation_indices), len(data.test_split)) == (12, 3, 12)
        assert data.train_split.labels[data.validation_indices].tolist() == [1, 1, 1]
        assert said == [
            "The validation images are those of Val: dataset.validation_fraction draws none from train",
            "There is no validation image of bright (6 in train).",
        ]
    assert data.train_split.digest not in (without.train_split.digest, _load(folder).train_split.digest)
    data, said = _said(folder, caplog)
    assert (len(data.train_indices), len(data.validation_indices)) == (12, 0)
    assert data.train_split.digest == without.train_split.digest
    assert said == ["dataset.validation_fraction=0: Val is left out"]
    _refused(
        folder, "dataset.validation_fraction=0.3: draws validation images from train, and", validation_fraction=0.3
    )
    (folder / "valid").mkdir()
    _refused(folder, "holds Val and valid, and either could be meant for validation", validation_fraction=0.1)


def test_other_folders_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = _make_folder(tmp_path / "noise", of_each=1)
    _write(folder / "more" / "c" / "1.png", Image.new("L", (4, 4)))
    _, said = _said(folder, caplog)
    assert said == [f"Left out of {folder}, neither dataset.train_split nor dataset.test_split: more"]


def test_images_that_are_trained_and_tested_on_are_refused(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = _make_folder(tmp_path / "noise", of_each=1)
    shutil.copy(folder / "train" / "dark" / "6x6_0.png", folder / "test" / "dark" / "copy.png")
    (folder / "test" / "bright" / "link.png").symlink_to(folder / "train" / "bright" / "6x9_0.png")
    message = (
        "2 of the 14 images of test are used in training too: test/bright/link.png is train/bright/6x9_0.png, "
        "test/dark/copy.png is train/dark/6x6_0.png"
    )
    for natural in (False, True):
        with pytest.raises(ConfigError) as caught:
            _load(folder, native_size=natural)
        assert str(caught.value) == (
            f"dataset.duplicates=refuse: {message}. Delete them in one of the places, or insist with "
            "dataset.duplicates=allow."
        )
    data, said = _said(folder, caplog, duplicates=Duplicates.allow)
    assert len(data.test_split) == 14
    assert said[0].startswith("dataset.duplicates=allow: 2 of the 14 images of test are used in training too: test/")
    (folder / "test" / "dark" / "copy.png").unlink()
    (folder / "test" / "bright" / "link.png").unlink()
    _write(folder / "val" / "dark" / "1.png", Image.new("RGB", (4, 4)))
    shutil.copy(folder / "val" / "dark" / "1.png", folder / "test" / "dark" / "copy.png")
    _refused(folder, "test/dark/copy.png is val/dark/1.png", validation_fraction=0.1)
    assert len(_load(folder).test_split) == 13
    (folder / "test" / "dark" / "copy.png").unlink()
    shutil.copy(folder / "train" / "dark" / "6x6_0.png", folder / "val" / "dark" / "2.png")
    found = "1 of the 2 validation images are used in training too: val/dark/2.png is train/dark/6x6_0.png"
    _refused(folder, f"dataset.duplicates=refuse: {found}. Delete", validation_fraction=0.1)
    assert len(_load(folder).test_split) == 12  # Where they are left out, nothing is said of them.


def _order(data: Data, epochs: int, batch_size: int) -> list[list[bytes]]:
    """The images of each batch of all epochs."""
    return [[image.tobytes() for image in images] for images, _ in data.train(batch_size, epochs).as_numpy_iterator()]


@pytest.mark.long
@pytest.mark.parametrize("batch_size", [1, 4, 7, 100])
def test_an_epoch_brings_every_image_once_in_batches_of_one_size(folder: Path, batch_size: int) -> None:
    data = _load(folder, native_size=True)
    assert isinstance(data.train_split, NaturalSplit)
    once = Counter(
        (int(label), image.tobytes())
        for image, label in zip(data.train_split.images, data.train_split.labels, strict=True)
    )
    assert (len(once), set(once.values())) == (42, {1})
    assert _contents(data, batch_size) == once
    # 14 images of each of three sizes: ⌈14 / batch_size⌉ batches a size.
    batches = list(data.train(batch_size, epochs=2).as_numpy_iterator())
    assert len(batches) == 2 * data.steps_per_epoch(batch_size) == 2 * 3 * math.ceil(14 / batch_size)
    assert {images.shape[1:3] for images, _ in batches} == set(SIZES)
    assert max(len(images) for images, _ in batches) == min(batch_size, 14)


@pytest.mark.long
def test_the_order_of_natural_sizes_is_a_function_of_seed_and_epoch(folder: Path) -> None:
    data, steps = _load(folder, native_size=True), 3 * 4
    first = _order(data, epochs=3, batch_size=4)
    tf.random.set_seed(99)  # Takes no part.
    assert _order(_load(folder, native_size=True), epochs=3, batch_size=4) == first
    assert _order(data, epochs=1, batch_size=4) == first[:steps]
    left = data.train(4, epochs=3, done=2).as_numpy_iterator()  # Of a training that was interrupted.
    assert [[image.tobytes() for image in images] for images, _ in left] == first[2 * steps :]
    assert _order(_load(folder, seed=1, native_size=True), epochs=1, batch_size=4) != first[:steps]
    assert first[:steps] != first[steps : 2 * steps] != first[2 * steps :]
    # 14 = 4 + 4 + 4 + 2: the smaller batches come anywhere, not in the end.
    places = {index % steps for index, batch in enumerate(first) if len(batch) == 2}
    assert min(places) < steps / 2


@pytest.mark.long
def test_the_cosine_ends_with_the_last_batch(folder: Path) -> None:
    data = _load(folder, native_size=True)
    model = build_model(SmallFcn(), GlobalAveragePool(), data.facts.image_shape, 2, seed=0)
    fit(model, data, Training(epochs=2, batch_size=4, keep_weights=KeepWeights.last), lambda *_: None)
    assert int(model.optimizer.iterations) == 2 * 3 * 4  # not 2 · ⌈42 / 4⌉ = 22
    assert float(model.optimizer.learning_rate) == pytest.approx(0, abs=1e-9)


@pytest.mark.long
def test_predictions_come_back_in_the_order_of_the_split(folder: Path) -> None:
    data = _load(folder, native_size=True, image_size=[6, 6])
    assert isinstance(data.test_split, NaturalSplit)
    model = build_model(SmallFcn(), GlobalAveragePool(), (6, 6, 3), 2, seed=0)
    for limit in (None, 7):
        logits, labels = predict(model, data.test(4, limit), data.test_order(limit))
        alone = np.concatenate([model(image[np.newaxis]).numpy() for image in data.test_split.images[:limit]])
        assert np.array_equal(labels, data.test_split.labels[:limit])
        assert np.allclose(logits, alone, atol=1e-5)
    # Four images of each size; a batch has no more pixels than 4 of 6×6 px: 4, 4·36 // 54 = 2 and 4·36 // 96 = 1.
    assert [len(images) for images, _ in data.test(4).as_numpy_iterator()] == [4, 2, 2, 1, 1, 1, 1]


def test_pipelines_of_natural_sizes_run_without_the_autotuner(folder: Path) -> None:
    data = _load(folder, native_size=True, validation_fraction=0.2)
    for pipeline in (data.train(8, 1), data.validation(8), data.test(8)):
        assert pipeline.options().autotune.enabled is False
    assert sum(len(labels) for _, labels in data.validation(8).as_numpy_iterator()) == round(42 * 0.2)


@pytest.mark.long
def test_validation_images_are_the_same_at_one_size_and_at_natural_sizes(folder: Path) -> None:
    fixed, natural = (_load(folder, validation_fraction=0.2, native_size=native) for native in (False, True))
    assert np.array_equal(fixed.validation_indices, natural.validation_indices)
    model = build_model(SmallFcn(), GlobalAveragePool(), (32, 32, 3), 2, seed=0)
    one, other = (pairing_of(data, model, batch_size=8) for data in (fixed, natural))
    assert (one.split, one.backbone) == (other.split, other.backbone)
    assert one.batches != other.batches


def _folder_of(folder: Path, **images: int) -> Path:
    """So many training images of each class, and a test image."""
    for name, count in images.items():
        for index in range(count):
            _write(folder / "train" / name / f"{index:03d}.png", Image.new("L", (4, 4)))
        _write(folder / "test" / name / "0.png", Image.new("L", (4, 5)))
    return folder


@pytest.mark.long
def test_a_rare_class_is_held_out_whatever_the_seed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = _folder_of(tmp_path, common=200, rare=3)
    drawn = set()
    for seed in range(20):
        data = _load(folder, seed, validation_fraction=0.1)
        labels = data.train_split.labels
        # round(203 · 0.1) = 20, of which the rare class has one instead of 20 · 3 / 203 = 0.30.
        assert np.bincount(labels[data.validation_indices]).tolist() == [19, 1]
        assert np.bincount(labels[data.train_indices]).tolist() == [181, 2]
        drawn |= set(data.validation_indices[labels[data.validation_indices] == 1])
    assert drawn == set(np.flatnonzero(labels == 1))  # Each of the three, by one seed or another.
    assert "validation image" not in caplog.text


def test_classes_without_a_validation_image_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = _folder_of(tmp_path, common=20, pair=2, single=1)
    # round(23 · 0.1) = 2: one of each class that can spare it.
    data = _load(folder, validation_fraction=0.1)
    assert np.bincount(data.train_split.labels[data.validation_indices]).tolist() == [1, 1]
    assert "There is no validation image of single (1 in train). Each class keeps one image to train on;" in caplog.text
    caplog.clear()
    # round(23 · 0.05) = 1, which is for the largest class.
    data = _load(folder, validation_fraction=0.05)
    assert data.train_split.labels[data.validation_indices].tolist() == [0]
    assert "There is no validation image of pair (2 in train), single (1 in train). " in caplog.text
    caplog.clear()
    assert len(_load(folder, validation_fraction=0.0).validation_indices) == 0
    assert "validation image" not in caplog.text


def test_the_fraction_that_a_refusal_advises_works(tmp_path: Path) -> None:
    few, single = _folder_of(tmp_path / "few", a=2, b=1), _folder_of(tmp_path / "single", a=1, b=1)
    # round(3 · 0.1) = 0 and round(3 · 0.9) = 3 of the 3 − 2 = 1 that can be held out; a third is that one.
    for fraction in (0.1, 0.9):
        with pytest.raises(ConfigError, match=r"Use for example dataset.validation_fraction=0\.333333, or dataset\."):
            _load(few, validation_fraction=fraction)
    assert len(_load(few, validation_fraction=0.333333).validation_indices) == 1
    with pytest.raises(ConfigError, match=r"on\. Use dataset.validation_fraction=0 training.keep_weights=last to hold"):
        _load(single, validation_fraction=0.5)


def test_sizes_go_to_the_nearest_step() -> None:
    image = np.zeros((1, 1, 1), np.uint8)
    for step, sides in (
        (1, {5: 5, 23: 23}),
        (4, {1: 4, 5: 4, 6: 8, 8: 8}),
        (16, {3: 16, 23: 16, 24: 32, 32: 32, 39: 32, 40: 48}),
    ):
        for side, expected in sides.items():
            assert to_step(np.zeros((side, 8, 1), np.uint8), step).shape[:1] == (expected,)
    noise = np.random.default_rng(0).integers(0, 256, (16, 32, 3), np.uint8)
    assert np.array_equal(to_step(noise, 16), noise)  # A multiple stays as it is.
    assert to_step(image, 16).shape == (16, 16, 1)


def test_too_many_sizes_are_refused_with_the_step_that_helps(folder: Path) -> None:
    _refused(
        folder,
        "dataset.max_sizes=2: the images have 3 sizes, and each size makes batches of its own. Use "
        "dataset.size_step=16, which leaves 1, or a larger dataset.max_sizes.",
        native_size=True,
        max_sizes=2,
    )
    # 6, 9 and 12 px are 8, 8 and 12 px in steps of 4: sizes (8, 8) and (12, 8).
    data = _load(folder, native_size=True, max_sizes=2, size_step=4)
    assert {images.shape[1:3] for images, _ in data.train(8, 1).as_numpy_iterator()} == {(8, 8), (12, 8)}


def _check_smallest(backbone: Backbone, data: Data) -> None:
    SizePlan(backbone, GlobalAveragePool(), data.facts).check_smallest(data)


@pytest.mark.long
def test_an_image_that_is_too_small_for_the_backbone_is_named(tmp_path: Path) -> None:
    folder = _make_folder(tmp_path / "noise", of_each=1)
    _write(folder / "test" / "dark" / "dot.png", Image.new("RGB", (30, 3)))
    _check_smallest(SmallFcn(), _load(folder))
    with pytest.raises(ConfigError) as caught:
        _check_smallest(SmallFcn(), _load(folder, native_size=True))
    assert str(caught.value) == (
        "dataset.native_size=true: test/dark/dot.png is too small: backbone=small_fcn needs images of at least 4×4 px, "
        "the product of its strides; received 3×30 px. Leave such images out, bring them to larger sizes with "
        "dataset.size_step, use a backbone with fewer strides, or dataset.native_size=false."
    )
    _check_smallest(SmallFcn(), _load(folder, native_size=True, size_step=4))


def test_images_that_do_not_fit_into_memory_are_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All at once where each has 32×32×3 bytes; one by one at their natural sizes, of 108 bytes at least."""
    free = 42 * 32 * 32 * 3
    monkeypatch.setattr("psutil.virtual_memory", lambda: type("Memory", (), {"available": free}))
    _refused(folder, "dataset.cache=memory: the images of train fill what memory is free after 0 of 42.")
    free = 100
    _refused(
        folder, "dataset.cache=memory: the images of train fill what memory is free after 1 of 42.", native_size=True
    )


def test_files_that_may_not_be_read_are_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> bytes:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(Path, "read_bytes", refuse)
    _refused(folder, "42 of the 42 files of train cannot be read as images: train/")
    _refused(folder, "_0.png (Permission denied)")
    monkeypatch.setattr(Path, "iterdir", refuse)
    _refused(folder, f"dataset.path={folder}: cannot be read: Permission denied. Name another folder, or let yourself")


@pytest.mark.long
def test_sizes_are_measured_at_the_reference_too(folder: Path) -> None:
    data = _load(folder, native_size=True, image_size=[8, 8])
    head, probe = GlobalAveragePool(), SizeProbe(sizes=[3, 6, 8, 16], batch_size=5)
    model = build_model(SmallFcn(), head, (8, 8, 3), 2, seed=0)
    logits, labels = predict(model, data.test(5), data.test_order())
    plan = SizePlan(SmallFcn(), head, data.facts)
    measured = measure_sizes(model, plan, probe, data, logits, labels)
    check_plan(head, plan.sizes(probe), measured)
    (reference,) = [result for result in measured if result.size == (8, 8)]
    assert isinstance(data.test_split, NaturalSplit)
    resized = tf.stack([resize(image, (8, 8)) for image in data.test_split.images])
    assert np.array_equal(reference.as_is.classes[Mode.RESIZE], model(resized).numpy().argmax(axis=1))
    # An image of 12×8 px is cut to rows 2 to 9, whatever place the canvas would give to a smaller one.
    tall = [index for index, image in enumerate(data.test_split.images) if image.shape == (12, 8, 3)]
    centres = np.stack([data.test_split.images[index][2:10] for index in tall])
    assert len(centres) == 4
    assert np.array_equal(reference.as_is.classes[Mode.CANVAS][tall], model(centres).numpy().argmax(axis=1))


class Varied(tfds.core.GeneratorBasedBuilder):
    """A dataset of TFDS whose images vary in size: 4×5, 5×5, … 11×5 px, filled with their height."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self) -> tfds.core.DatasetInfo:
        image = tfds.features.Image(shape=(None, None, 1))
        features = tfds.features.FeaturesDict(
            {"image": image, "label": tfds.features.ClassLabel(names=["odd", "even"])}
        )
        return self.dataset_info_from_configs(features=features, supervised_keys=("image", "label"))

    def _split_generators(self, dl_manager: object) -> dict[str, Iterator[tuple[int, dict[str, Any]]]]:
        return {"train": self._generate_examples(), "test": self._generate_examples()}

    def _generate_examples(self) -> Iterator[tuple[int, dict[str, Any]]]:
        for index in range(24):
            height = 4 + index % 8
            yield index, {"image": np.full((height, 5, 1), height, np.uint8), "label": (height + 1) % 2}


@pytest.mark.long
def test_datasets_of_tfds_keep_their_sizes_too(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"name": "varied", "image_size": [8, 8], "data_dir": str(tmp_path / "tfds")}
    natural = source.load(Dataset(**settings, native_size=True, validation_fraction=0.0), 0, tmp_path)
    assert str(natural.facts.trained_size) == "natural, about 8×8"
    assert natural.steps_per_epoch(2) == 8 * 2  # ⌈3 / 2⌉ batches of each of the eight heights
    heights = Counter[int]()
    for images, labels in natural.train(2, epochs=1).as_numpy_iterator():
        height = images.shape[1]
        assert np.all(images == height)
        assert np.all(labels == (height + 1) % 2)
        heights[height] += len(images)
    assert heights == dict.fromkeys(range(4, 12), 3)
    stepped = source.load(Dataset(**settings, native_size=True, size_step=4), 0, tmp_path)
    # 4 and 5 px go to 4, 6 to 9 to 8, 10 and 11 to 12.
    assert {images.shape[1] for images, _ in stepped.test(1).as_numpy_iterator()} == {4, 8, 12}
    with pytest.raises(
        ConfigError, match="dataset.native_size=true: image .* of train is too small: .* received 4×5 px"
    ):
        _check_smallest(SmallFcn(strides=[1, 2, 2, 2]), natural)


@pytest.mark.parametrize("head", [head for head in HEADS if not head().takes_any_size], ids=lambda head: head.name)
def test_heads_of_one_size_are_refused_before_any_data_is_read(head: type[Head]) -> None:
    with pytest.raises(ConfigError) as caught:
        typed(f"head={head.name}", "dataset=image_folder", "dataset.path=nowhere", "dataset.native_size=true")
    rule, remedy = str(caught.value).split(". ")
    assert rule == f"dataset.native_size=true: head={head.name} is built for images of one size"
    assert remedy.startswith("Use one that takes any size (head=")
    assert "global_average_pool" in remedy
    assert remedy.endswith(") or dataset.native_size=false.")


def test_sizes_to_train_at_and_natural_sizes_exclude_each_other() -> None:
    with pytest.raises(ConfigError) as caught:
        typed("dataset=image_folder", "dataset.path=nowhere", "dataset.native_size=true", "training.sizes=[16,32]")
    assert str(caught.value) == (
        "training.sizes=[16, 32]: resizes every batch, and with dataset.native_size=true images keep their sizes. "
        "Use training.sizes=null or dataset.native_size=false."
    )


@pytest.fixture(scope="module")
def study(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory of a sweep over natural and one size, run as a user runs it."""
    directory = tmp_path_factory.mktemp("study")
    result = run_forked(
        *("pipeline.train", "--multirun", "dataset=image_folder", f"dataset.path={folder}", "dataset.image_size=[8,8]"),
        *("dataset.native_size=true,false", "training.epochs=1", "size_probe.sizes=[6,16]"),
        cwd=directory,
    )
    assert result.returncode == 0, result.stderr
    (directory / "stdout.txt").write_text(result.stdout)
    return directory


@pytest.mark.slow
def test_what_a_run_at_natural_sizes_leaves_behind(study: Path) -> None:
    client = mlflow.MlflowClient(f"sqlite:///{study / 'outputs' / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("noise")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id], "params.dataset.native_size = 'True'")
    assert [run.info.status for run in runs] == ["FINISHED"]
    for run in runs:
        assert run.data.params["image_size"] == "natural, about 8×8"
        assert run.data.params["dataset.max_sizes"] == "64"
        # 42 images, of which round(4.2) are held out.
        assert (run.data.params["train_examples"], run.data.params["validation_examples"]) == ("38", "4")
        for dataset in run.inputs.dataset_inputs:
            assert "[-1, -1, -1, 3]" in dataset.dataset.schema
        predictions = pd.read_parquet(client.download_artifacts(run.info.run_id, "predictions.parquet"))
        logits = predictions[["logit_0", "logit_1"]].to_numpy()
        assert run.data.metrics["test/accuracy"] == pytest.approx(
            np.mean(logits.argmax(axis=1) == predictions["label"])
        )
        sizes = pd.read_parquet(client.download_artifacts(run.info.run_id, "size_predictions.parquet"))
        assert {"resize_008px", "canvas_008px", "resize_016px"} <= set(sizes)
        assert sizes["label"].tolist() == predictions["label"].tolist()
        assert "test accuracy at natural sizes; " in run.data.tags["mlflow.note.content"]
    natural, fixed = (
        {run.data.tags["pairing.batches"] for run in client.search_runs([experiment.experiment_id], condition)}
        for condition in ("params.dataset.native_size = 'True'", "params.dataset.native_size = 'False'")
    )
    assert len(natural) == len(fixed) == 1
    assert not natural & fixed


@pytest.mark.slow
def test_a_study_of_natural_sizes_ends_with_its_report(study: Path) -> None:
    output = (study / "stdout.txt").read_text()
    assert "small_fcn on noise at natural, about 8×8 px" in output
    assert "small_fcn on noise at 8×8 px" in output
    (report,) = (study / "outputs" / "studies").glob("*/report.md")
    lines = report.read_text().splitlines()
    # Trainings that see other pixels are never compared: each has its own part.
    headings = ["## small_fcn on noise at natural, about 8×8 px", "## small_fcn on noise at 8×8 px"]
    assert [line for line in lines if line.startswith("#")] == headings
    alone = "nothing can be said: two arms with two seeds in common are the least."
    assert f"At natural sizes {alone}" in lines[0]
    assert f"At 8 px {alone}" in lines[0]


THEME = Path("/usr/share/icons/gnome")
"""Of the Debian package gnome-icon-theme, which .ci/run installs."""
ICON_SIZES = (16, 22, 24, 32, 48)
CATEGORIES = ("actions", "apps", "devices", "emotes", "mimetypes", "places")
MOST_NAMES = 40
"""Icons taken of a category, so that none outweighs the others."""


def _make_icon_folder(folder: Path) -> None:
    """Icons by category, every third name in test.

    An icon's sizes are the same picture, so all images of a name go to one side. So do no links and no mirrored
    (`-rtl`) icons anywhere, which are other icons again.
    """
    for category in CATEGORIES:
        files = [file for side in ICON_SIZES for file in (THEME / f"{side}x{side}" / category).glob("*.png")]
        files = [file for file in files if not file.is_symlink() and not file.stem.endswith("-rtl")]
        for name in sorted({file.stem for file in files})[:MOST_NAMES]:
            split = "test" if zlib.crc32(name.encode()) % 3 == 0 else "train"  # A name may be in two categories.
            (folder / split / category).mkdir(parents=True, exist_ok=True)
            for file in files:
                if file.stem == name:
                    shutil.copy(file, folder / split / category / f"{name}_{file.parts[-3]}.png")


@pytest.mark.slow
@pytest.mark.skipif(not THEME.is_dir(), reason=f"{THEME} is not there: apt-get install gnome-icon-theme")
def test_icons_of_five_sizes(tmp_path: Path) -> None:
    """Which category is an icon of? At natural sizes."""
    folder = tmp_path / "icons"
    _make_icon_folder(folder)
    train, test = ({file.read_bytes() for file in (folder / split).rglob("*.png")} for split in ("train", "test"))
    assert len(train) + len(test) >= 500
    assert not train & test

    of_icons = ("dataset=image_folder", f"dataset.path={folder}", "dataset.native_size=true", "training.epochs=30")
    refused = run_forked("pipeline.train", *of_icons, "head=flatten_dense", cwd=tmp_path)
    assert refused.returncode == 2
    assert "head=flatten_dense is built for images of one size" in refused.stderr
    last = ("training.keep_weights=last", "size_probe.sizes=[16,48]")
    result = run_forked("pipeline.train", *of_icons, *last, cwd=tmp_path)
    assert result.returncode == 0, result.stderr

    client = mlflow.MlflowClient(f"sqlite:///{tmp_path / 'outputs' / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("icons")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id], "tags.head != ''")
    assert run.data.params["image_size"] == "natural, about 32×32"
    sides = {images.shape[1:3] for images, _ in _load(folder, native_size=True).train(32, epochs=1).as_numpy_iterator()}
    assert sides == {(side, side) for side in ICON_SIZES}
    labels = _load(folder).test_split.labels
    chance = np.bincount(labels).max() / len(labels)
    accuracy = run.data.metrics["test/accuracy"]
    print(f"test accuracy {accuracy:.3f}, chance {chance:.3f}")
    assert accuracy > chance + 0.1
