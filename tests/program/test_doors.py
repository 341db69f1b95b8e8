"""Whatever comes in by a door of the program works or gets one message; no code runs, and nothing is written elsewhere.

Files of every kind that it reads, changed at random. Names are in test_names.py, snapshots in
tests/comparison/test_schema.py, command lines in test_fuzz.py.
"""

from __future__ import annotations

import io
import json
import os
import random
import shutil
import struct
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from tests.conftest import ROOT
from tests.program.doors import FROZEN, QUICK, fault_of
from tests.program.forked import run_forked

pytestmark = pytest.mark.slow

Draw = random.Random


# Anything in place of anything.

ODD: tuple[Any, ...] = (
    *(None, True, 0, 1, -1, 7, 2**31, 2**63, 10**30, 0.5, -0.5, 1e308, float("inf"), float("nan")),
    *("", "x", "None", "..", "/", "~", "a/b", "owned", "[/bold]", "$\\frac{$", "<b>", "${oc.env:HOME}", "é☃"),
    *("\u202e", "os.system", "builtins", "x" * 5000, "%n%s", "None\n", "'", '"', "a b", "a=b", "[1", "{a: 1}"),
    *([], {}, [[]], [0], [-1, 2**40], {"class_name": "Lambda"}),
    {"_target_": "shutil.copy", "src": "here", "dst": "owned"},
    {"module": "os", "class_name": "system", "config": {"command": "touch owned"}, "registered_name": "system"},
)


def _places(tree: Any) -> list[tuple[Any, Any]]:
    """Every place of a tree of lists and dicts, as container and key."""
    found: list[tuple[Any, Any]] = []
    if isinstance(tree, dict | list):
        for key, value in list(tree.items()) if isinstance(tree, dict) else list(enumerate(tree)):
            found += [(tree, key), *_places(value)]
    return found


def _changed_tree(tree: Any, draw: Draw) -> Any:
    for _ in range(draw.choice((1, 1, 1, 2, 4))):
        container, key = draw.choice(_places({"": tree}))
        match draw.choice(("value", "value", "remove", "other", "twice", "deep")):
            case "value":
                container[key] = draw.choice(ODD)
            case "remove":
                del container[key]
            case "other":
                other, where = draw.choice(_places({"": tree}))
                container[key] = json.loads(json.dumps(other.get(where) if isinstance(other, dict) else other[where]))
            case "twice" if isinstance(container, list):
                container.insert(key, json.loads(json.dumps(container[key])))
            case "deep":
                for _ in range(draw.choice((3, 300))):
                    container[key] = [container[key]]
        if not isinstance(tree, dict | list) or not _places(tree):
            break
    return tree


def _changed_bytes(whole: bytes, draw: Draw) -> bytes:
    content = bytearray(whole)
    match draw.choice(("flip", "flip", "cut", "empty", "insert", "zeros", "swap", "twice")) if whole else "none":
        case "flip":
            for _ in range(draw.choice((1, 3, 30))):
                content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
        case "cut":
            del content[draw.randrange(len(content)) :]
        case "empty":
            content.clear()
        case "insert":
            place = draw.randrange(len(content))
            content[place:place] = draw.randbytes(draw.choice((1, 40)))
        case "zeros":
            begin = draw.randrange(len(content))
            content[begin : begin + 64] = bytes(len(content[begin : begin + 64]))
        case "swap":
            middle = draw.randrange(len(content))
            content = content[middle:] + content[:middle]
        case "twice":
            content = content * 2
    return bytes(content)


# The doors.


@dataclass(frozen=True)
class Door:
    """A way in.

    Attributes:
        mutants: How many are tried; `--times 10` tries ten times as many.
        enter: Puts something into a directory that `furnish` has filled; returns the command that takes it.
    """

    mutants: int
    enter: Callable[[Path, Draw], list[str]]


def _model(directory: Path, draw: Draw) -> list[str]:
    path = directory / "ok.keras"
    with zipfile.ZipFile(path) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    name = draw.choice(("config.json", "config.json", "config.json", "metadata.json", "model.weights.h5", "zip", "zip"))
    match name:
        case "zip":
            path.write_bytes(_changed_bytes(path.read_bytes(), draw))
        case "model.weights.h5":
            files[name] = _changed_bytes(files[name], draw)
        case _ if draw.random() < 0.1:
            files[name] = _changed_bytes(files[name], draw)
        case _:
            files[name] = json.dumps(_changed_tree(json.loads(files[name]), draw)).encode()
    if name != "zip":
        if draw.random() < 0.1:
            files[draw.choice(("../b", "/owned", "assets/x", "config.json/x", "x" * 300))] = b"x"
        with zipfile.ZipFile(path, "w") as archive:
            for file, content in files.items():
                archive.writestr(file, content)
    return draw.choice(
        [
            ["pipeline.convert", "model=ok.keras", "way=resize_input", "output=out.keras"],
            ["pipeline.convert", "model=ok.keras"],
            ["pipeline.probe", "model=ok.keras", "images=images/test", "size_probe.sizes=[8,12]"],
            ["pipeline.plan", "backbone=from_model", "backbone.path=ok.keras"],
        ]
    )


FORMATS = ("PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF", "PPM", "ICO", "EPS", "PDF", "TGA", "DDS", "ICNS", "SGI", "PCX")


def _image(draw: Draw) -> bytes:
    """An image, or what claims to be one."""
    if draw.random() < 0.1:
        return draw.choice(
            (
                b"",
                b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n(owned) (w) file\n",
                b"<svg/>",
                b"RIFF\0\0\0\0WEBP",
            )
        )
    mode = draw.choice(("RGB", "L", "P", "RGBA", "1", "CMYK", "I;16", "F", "LA"))
    size = draw.choice(((8, 8), (8, 8), (1, 1), (1, 300), (300, 2)))
    written = io.BytesIO()
    try:
        Image.new("RGB" if mode in ("P", "CMYK") else mode, size).convert(mode).save(written, draw.choice(FORMATS))
    except (OSError, ValueError, KeyError):  # Not every format has every mode.
        written = io.BytesIO()
        Image.new("RGB", size).save(written, "PNG")
    content = written.getvalue()
    if content.startswith(b"\x89PNG") and draw.random() < 0.3:  # More pixels than there are.
        return content[:16] + struct.pack(">II", draw.choice((8, 100_000)), 100_000) + content[24:]
    return _changed_bytes(content, draw) if draw.random() < 0.7 else content


def _folder(directory: Path, draw: Draw) -> list[str]:
    images = directory / "images"
    for _ in range(draw.choice((1, 2, 5))):
        files = [path for path in images.rglob("*") if path.is_file() and path.stat().st_size < 10**6]
        if not files:
            break
        place = draw.choice(sorted(files))
        match draw.choice(
            ("image", "image", "image", "link", "loop", "pipe", "rename", "copy", "folder", "device", "hole")
        ):
            case "image":
                place.write_bytes(_image(draw))
            case "link":
                place.unlink()
                place.symlink_to(draw.choice(("nowhere", "/etc/passwd", "/dev/zero", str(directory))))
            case "loop":
                (place.parent / f"again{len(list(place.parent.iterdir()))}").symlink_to(
                    images, target_is_directory=True
                )
            case "pipe":
                place.unlink()
                os.mkfifo(place)
            case "rename":
                names = (b"\xff\xfe.png", b"a\nb.png", b"[bold].png", b"-rf.png", b".png", b"x.PNG", b"x")
                place.rename(place.parent / os.fsdecode(draw.choice(names)))
            case "copy":
                other = images / draw.choice(("train", "test")) / place.parent.name
                other.mkdir(parents=True, exist_ok=True)
                content = place.read_bytes()
                (other / "c.png").unlink(missing_ok=True)
                (other / "c.png").write_bytes(content)
            case "folder":
                name = draw.choice(("b b", "[bold]", "é☃", ".hidden", "__MACOSX"))
                shutil.move(place.parent, place.parent.with_name(name))
            case "device":
                place.unlink()
                place.symlink_to("/dev/random")
            case "hole":
                with place.open("wb") as file:
                    file.truncate(10**10)
    return draw.choice(
        [
            ["pipeline.probe", "model=ok.keras", "images=images/test", "size_probe.sizes=[8]"],
            ["pipeline.probe", "model=ok.keras", "images=images", "size_probe.sizes=[8]"],
            ["pipeline.plan", "dataset=image_folder", "dataset.path=images"],
            ["pipeline.train", "dataset=image_folder", "dataset.path=images", *QUICK[:3]],
            ["pipeline.convert", "model=ok.keras", "way=resize_input", "images=images/test/a", "output=out.keras"],
        ]
    )


def _prepared(directory: Path, draw: Draw) -> list[str]:
    """TFDS's own files of a prepared dataset."""
    place = draw.choice(sorted(path for path in (directory / "tfds" / "digits").rglob("*") if path.is_file()))
    if place.suffix == ".json" and draw.random() < 0.8:
        place.write_text(json.dumps(_changed_tree(json.loads(place.read_text()), draw)))
    elif draw.random() < 0.2:
        place.unlink()
    else:
        place.write_bytes(_changed_bytes(place.read_bytes(), draw))
    return ["pipeline.train", f"dataset.data_dir={directory / 'tfds'}", *QUICK]


def _yaml(directory: Path, draw: Draw) -> list[str]:
    """A study or an arm that somebody hands on."""
    group = draw.choice(("study", "study", "arm"))
    known = draw.choice(sorted((ROOT / "experiments" / group).glob("*.yaml")))
    text = known.read_text()
    if draw.random() < 0.3:
        content = _changed_bytes(text.encode(), draw)
    else:
        try:
            changed = yaml.safe_dump(_changed_tree(yaml.safe_load(text), draw))
        except RecursionError:  # Written by hand, it is as deep.
            changed = f"question: {'[' * 3000}{']' * 3000}"
        content = f"# @package _global_\n{changed}".encode()
    (directory / group).mkdir()
    (directory / group / "theirs.yaml").write_bytes(content)
    return ["pipeline.plan", f"{group}=theirs", f"hydra.searchpath=[experiments://{directory}]"]


def _array(directory: Path, draw: Draw) -> list[str]:
    """A .npy file of images, or what an earlier run has left: decoded images, feature maps."""
    command = ["pipeline.convert", "model=ok.keras", "way=resize_input", "images=images.npy", "output=out.keras"]
    if draw.random() < 0.4:
        kept = sorted((directory / "outputs" / "cache").rglob("*.npy"))
        assert kept
        place = draw.choice(kept)
        command = ["pipeline.train", "head=global_average_pool", f"dataset.data_dir={directory / 'tfds'}", *FROZEN]
    else:
        place = directory / "images.npy"
        kind = draw.choice(("|u1", "<f4", "<f8", "|b1", "<c8", "<U3", "<M8[s]", "<i8", ">f4"))
        shape = draw.choice(((4, 8, 8, 1), (4, 8, 8, 3), (0, 8, 8, 1), (4, 8, 8), (), (4, 9, 11, 1), (1, 1, 1, 1)))
        np.save(place, np.zeros(shape, kind))
    content = place.read_bytes()
    begin, end = content[:10], content.index(b"\n") + 1
    match draw.choice(("none", "bytes", "header", "header", "pickled")):
        case "bytes":
            content = _changed_bytes(content, draw)
        case "header":
            nested = "(" * 3000 + ")" * 3000
            told = draw.choice((f"({10**6}, {10**6})", "(-1,)", f"({2**62},)", "'x'", nested, "(4, 8, 8, 1)"))
            kind, order = draw.choice(("|u1", "|O", "|V99999999", "x", "<f8")), draw.choice((True, False, 3))
            header = f"{{'descr': '{kind}', 'fortran_order': {order}, 'shape': {told}, }}\n".encode()
            content = begin[:8] + struct.pack("<H", len(header) % 2**16) + header + content[end:]
        case "pickled":
            written = io.BytesIO()
            np.save(written, np.array([{"a": 1}], object), allow_pickle=True)
            content = written.getvalue()
    place.write_bytes(content)
    return command


DOORS = {
    "models": Door(20, _model),
    "folders of images": Door(6, _folder),
    "prepared datasets": Door(12, _prepared),
    "studies and arms": Door(6, _yaml),
    "arrays": Door(6, _array),
}


@pytest.mark.parametrize("name", DOORS)
def test_what_comes_in_works_or_is_refused_in_one_message(
    name: str, times: int, furnished: Path, tmp_path: Path
) -> None:
    door = DOORS[name]
    mutants = door.mutants * times
    faults: list[str] = []
    worked, most, longest = 0, 0.0, 0.0
    for number in range(mutants):
        directory = tmp_path / str(number)
        shutil.copytree(furnished, directory)
        draw = random.Random(f"{name} {number}")
        command = door.enter(directory, draw)
        told = f"{name}, mutant {number}, {' '.join(command)}"
        ended = run_forked(*command, cwd=directory)
        if fault := fault_of(ended, directory):
            faults.append(f"{told}: {fault}\n{ended.output[-3000:]}")
        worked += ended.returncode == 0
        most, longest = max(most, ended.megabytes), max(longest, ended.seconds)
        shutil.rmtree(directory)
    print(
        f"{name}: of {mutants}, {worked} worked and {mutants - worked} were refused in one message; "
        f"at most {longest:.0f} s and {most:.0f} MB"
    )
    assert not faults, "\n".join(faults)
    assert 0 < worked < mutants
