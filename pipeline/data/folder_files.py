"""Which files of a folder of images are trained, validated and tested on, by the names of folders and files alone."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.common.errors import ConfigError, printable, require, the_first_of
from pipeline.common.files import expanded
from pipeline.data.settings import ImageFolder
from pipeline.data.validation import hold_out, most_held_out

SUFFIXES = (".png", ".jpg", ".jpeg")
"""Of the files that are taken for images, in lower or upper case."""
VALIDATION = ("val", "validation", "valid")
"""Names of a folder of validation images, beside those that are trained and tested on."""
TEST_SEED = 0
"""Draws the test images of a folder without splits: the same for every run, whatever its own seed."""


@dataclass(frozen=True)
class SplitFiles:
    """The image files of a split, in the order in which they are used.

    Attributes:
        name: Of the split.
        paths: Of the files.
        labels: Of each, its class's place in the folder's `classes`.
        set_apart: How many of them, the last, are of a folder of validation images.
    """

    name: str
    paths: tuple[Path, ...]
    labels: tuple[int, ...]
    set_apart: int = 0


@dataclass(frozen=True)
class FolderFiles:
    """The image files of a folder.

    Attributes:
        folder: Absolute.
        classes: Names of the classes, by label.
        train: The split to train on, with the validation images of a folder of their own.
        test: The split to test on.
        notes: What a user should know of what is used, and of what is left out.
    """

    folder: Path
    classes: tuple[str, ...]
    train: SplitFiles
    test: SplitFiles
    notes: tuple[str, ...]


def list_files(dataset: ImageFolder) -> FolderFiles:
    """Lists the files of a folder; reads none.

    Raises:
        ConfigError: There is no such folder, it lacks a split, a class or an image, or its splits hold different
            classes.
    """
    try:
        dataset.require(
            "path",
            dataset.folder.is_dir(),
            "is not a folder",
            "Name one that holds train/CLASS/*.png and test/CLASS/*.png.",
        )
        return _by_folders(dataset) if dataset.test_fraction is None else _draw_test(dataset, dataset.test_fraction)
    except OSError as error:
        where = f"{error.filename}: " if error.filename != str(dataset.folder) else ""
        raise dataset.error(
            "path", f"cannot be read: {where}{error.strerror}", "Name another folder, or let yourself read this one."
        ) from error


def list_labelled(path: str, key: str) -> tuple[tuple[str, ...], SplitFiles]:
    """The classes of a folder without splits, PATH/CLASS/*.png, in alphabetical order, and all of its images.

    Args:
        path: The folder.
        key: The setting that names it, for messages.

    Raises:
        ConfigError: There is no such folder, or a folder of a class in it holds no image.
    """
    folder = expanded(path).absolute()
    remedy = f"Name a folder that holds a folder of image files for each class, {key}=DIR with DIR/CLASS/*.png."
    require(folder.is_dir(), key, path, "is not a folder", remedy)
    try:
        images = {name: _images(folder / name) for name in _folders(folder)}
    except OSError as error:
        raise ConfigError(key, path, f"cannot be read: {error.filename}: {error.strerror}", remedy) from error
    empty = [printable(name) for name, files in images.items() if not files]
    require(len(images) > 0, key, path, "holds no folder of a class", remedy)
    rule = f"holds no {', '.join(SUFFIXES)} file of {the_first_of(empty)}"
    require(not empty, key, path, rule, "Put images there, or delete the folder.")
    files = [(file, label) for label, found in enumerate(images.values()) for file in found]
    return tuple(map(printable, images)), _shuffled(folder.name, *map(list, zip(*files, strict=True)))


def _folders(parent: Path) -> list[str]:
    return sorted(child.name for child in _visible(parent) if child.is_dir())


def _visible(parent: Path) -> Iterator[Path]:
    """What people have put into a folder, without what programs leave there: notebooks, macOS, synchronisers."""
    return (child for child in parent.iterdir() if not child.name.startswith(".") and child.name != "__MACOSX")


def _images(folder: Path) -> list[Path]:
    return sorted(file for file in _visible(folder) if file.suffix.lower() in SUFFIXES)


def _by_folders(dataset: ImageFolder) -> FolderFiles:
    """The files of PATH/SPLIT/CLASS."""
    path, train, test = dataset.folder, dataset.train_split, dataset.test_split
    found = _folders(path)
    _check_splits(dataset, found)
    classes = _folders(path / train)
    _check_images(dataset, classes)
    candidates = [name for name in found if name.lower() in VALIDATION and name not in (train, test)]
    validation = _validation_folder(dataset, candidates, classes)
    notes = [
        f"Left out of {path}, neither dataset.train_split nor dataset.test_split: {printable(name)}"
        for name in found
        if name not in (train, test, *candidates)
    ]
    trained, tested = _files_of(path, train, classes), _files_of(path, test, classes)
    splits = [train, test]
    if validation is not None:
        held_out = _files_of(path, validation, classes)
        labels = trained.labels + held_out.labels
        trained = SplitFiles(train, trained.paths + held_out.paths, labels, set_apart=len(held_out.labels))
        splits.append(validation)
        notes.append(
            f"The validation images are those of {validation}: dataset.validation_fraction draws none from {train}"
        )
    elif candidates:
        notes.append(f"dataset.validation_fraction=0: {the_first_of(candidates)} is left out")
    notes += [note for split in splits for note in _left_out(path, path / split)]
    return FolderFiles(path, tuple(map(printable, classes)), trained, tested, tuple(notes))


def _check_splits(dataset: ImageFolder, found: list[str]) -> None:
    """Raises `ConfigError` unless the splits are two of the folders that were found."""
    path = dataset.folder
    has_classes = all(map(_images, (path / name for name in found))) and len(found) > 1
    for key, split in (("train_split", dataset.train_split), ("test_split", dataset.test_split)):
        remedy = (
            f"Put the images of each class into {path / split / 'CLASS'}, or name another folder with "
            f"dataset.{key}=NAME."
        )
        if has_classes:
            remedy = f"Use dataset.test_fraction=0.2 to test on a fifth of each class of {path}."
        elif key == "test_split":
            remedy += f" To test on a fifth of {dataset.train_split}: dataset.path={path / dataset.train_split} "
            remedy += "dataset.test_fraction=0.2."
        shown = the_first_of([printable(name) for name in found]) or "none"
        dataset.require(key, split in found, f"is not a folder in {path}, which has {shown}", remedy)
    dataset.require(
        "test_split",
        dataset.train_split != dataset.test_split,
        "is dataset.train_split too: what was trained on cannot be tested on",
        "Name another folder.",
    )


def _check_images(dataset: ImageFolder, classes: list[str]) -> None:
    """Raises `ConfigError` unless there are images of the same classes, two at least, to train and to test on."""
    path, train, test = dataset.folder, dataset.train_split, dataset.test_split
    for split in (train, test):
        folders = _folders(path / split)
        empty = [name for name in folders if not _images(path / split / name)]
        dataset.require(
            "path",
            len(empty) < len(folders),
            f"{split} holds no image: there is no {', '.join(SUFFIXES)} file in a folder of a class",
            f"Put the images of each class into {path / split / 'CLASS'}.",
        )
        dataset.require(
            "path",
            not empty,
            f"holds no image of {the_first_of([printable(name) for name in empty])} in {split}: there is no "
            f"{', '.join(SUFFIXES)} file",
            "Put images there, or delete the folder in every split.",
        )
    _check_classes(dataset, test, set(_folders(path / test)) ^ set(classes))
    dataset.require(
        "path",
        len(classes) > 1,
        f"needs at least two classes, and {train} has only {the_first_of([printable(name) for name in classes])}",
        "Put the images of another class into a folder beside it, in every split.",
    )


def _check_classes(dataset: ImageFolder, split: str, differing: set[str]) -> None:
    dataset.require(
        "path",
        not differing,
        f"{dataset.train_split} and {split} hold different classes: one of them alone has "
        f"{the_first_of([printable(name) for name in sorted(differing)])}",
        "Give both the same folders of classes.",
    )


def _validation_folder(dataset: ImageFolder, candidates: list[str], classes: list[str]) -> str | None:
    """The folder of validation images; None if there is none, or none are asked for."""
    if not candidates or dataset.validation_fraction == 0:
        return None
    dataset.require(
        "path",
        len(candidates) == 1,
        f"holds {' and '.join(candidates)}, and either could be meant for validation",
        "Move all but one of them away.",
    )
    (name,) = candidates
    usual = type(dataset).validation_fraction
    dataset.require(
        "validation_fraction",
        dataset.validation_fraction == usual,
        f"draws validation images from {dataset.train_split}, and {dataset.folder} has a folder of them, {name}",
        f"Leave it out to validate on {name}, or move that folder away.",
    )
    split = dataset.folder / name
    _check_classes(dataset, name, set(_folders(split)) - set(classes))  # A rare class may be missing.
    dataset.require(
        "path",
        any(_images(split / folder) for folder in _folders(split)),
        f"{name} holds no image: there is no {', '.join(SUFFIXES)} file in a folder of a class",
        f"Put validation images into {split / 'CLASS'}, or delete {name}.",
    )
    return name


def _draw_test(dataset: ImageFolder, fraction: float) -> FolderFiles:
    """The files of PATH/CLASS, of which a fraction is tested on."""
    path = dataset.folder
    found = _folders(path)
    splits = [name for name in (dataset.train_split, dataset.test_split) if name in found and _folders(path / name)]
    dataset.require(
        "test_fraction",
        not splits,
        f"draws the test images from a folder without splits, and {path} has {' and '.join(splits)}",
        f"Use dataset.test_fraction=null, or dataset.path={path / dataset.train_split} to draw from that folder.",
    )
    images = {name: _images(path / name) for name in found}
    few = [f"{printable(name)} ({len(files)})" for name, files in images.items() if len(files) < 2]
    dataset.require(
        "test_fraction",
        len(found) > 1 and not few,
        f"needs two folders of classes in {path}, each of two images at least; "
        + (f"too few are in {the_first_of(few)}" if few else f"there is {the_first_of(found) or 'none'}"),
        "Put more images there, or delete folders that are no classes.",
    )
    paths = [file for files in images.values() for file in files]
    labels = np.repeat(np.arange(len(found)), [len(files) for files in images.values()])
    count, least, most = round(len(paths) * fraction), len(found), most_held_out(labels)
    usual = round(len(paths) * 0.2)
    example = 0.2 if least <= usual <= most else min(max(usual, least), most) / len(paths)
    dataset.require(
        "test_fraction",
        least <= count <= most,
        f"draws {count} of the {len(paths)} images of {len(found)} classes: at least one of each must be tested on, "
        "and one be left to train on",
        f"Use for example dataset.test_fraction={example:.6g}.",
    )
    train, test = (
        _shuffled(name, [paths[index] for index in drawn], labels[drawn].tolist())
        for name, drawn in zip(
            (dataset.train_split, dataset.test_split), hold_out(labels, count, TEST_SEED), strict=True
        )
    )
    return FolderFiles(path, tuple(map(printable, found)), train, test, tuple(_left_out(path, path)))


def _files_of(path: Path, split: str, classes: list[str]) -> SplitFiles:
    files = [
        (file, label)
        for label, name in enumerate(classes)
        if (path / split / name).is_dir()
        for file in _images(path / split / name)
    ]
    return _shuffled(split, [file for file, _ in files], [label for _, label in files])


def _shuffled(name: str, paths: Sequence[Path], labels: Sequence[int]) -> SplitFiles:
    """A split in an order that mixes the classes, by its name alone: the first images are a sample of all."""
    files = list(zip(paths, labels, strict=True))
    random.Random(name).shuffle(files)
    return SplitFiles(name, tuple(path for path, _ in files), tuple(label for _, label in files))


def _left_out(path: Path, split: Path) -> Iterator[str]:
    """Says what lies among the images of a split and is not taken for one."""
    ignored = sorted(
        printable(file.relative_to(path).as_posix())
        for name in _folders(split)
        for file in _visible(split / name)
        if file.suffix.lower() not in SUFFIXES
    )
    if ignored:
        yield f"Left out of {printable(split.name)}, neither {', '.join(SUFFIXES)}: {the_first_of(ignored)}"
