"""What the tests of the program's doors share: a directory with something of everything, and what no command may do."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import keras
import numpy as np
from PIL import Image

from tests.program.forked import Ended, run_forked

QUICK = ("training.epochs=1", "size_probe.ways=[]", "size_probe.sizes=[8]", "dataset.train_split='train[:10%]'")
FROZEN = ("backbone.trainable=false", "dataset.cache=disk", *QUICK)
MOST_MEGABYTES = 4000
"""Of memory; importing TensorFlow and MLflow alone takes 400."""


def furnish(directory: Path) -> None:
    """Puts a model, images, a prepared dataset, and what a run has kept, into a directory."""
    stack = [
        *(keras.layers.Input((8, 8, 1)), keras.layers.Rescaling(1 / 255), keras.layers.Conv2D(4, 3, padding="same")),
        *(keras.layers.BatchNormalization(), keras.layers.ReLU(), keras.layers.GlobalAveragePooling2D()),
        keras.layers.Dense(2),
    ]
    keras.Sequential(stack).save(directory / "ok.keras")
    (directory / "here").touch()
    shade = random.Random(0)
    for split, count in (("train", 6), ("test", 3)):
        for name in "ab":
            (directory / "images" / split / name).mkdir(parents=True)
            for number in range(count):
                pixels = np.frombuffer(shade.randbytes(64), np.uint8).reshape(8, 8)
                Image.fromarray(pixels).save(directory / "images" / split / name / f"{number}.png")
    data_dir = f"dataset.data_dir={directory / 'tfds'}"
    prepared = run_forked("pipeline.train", "head=global_average_pool", data_dir, *FROZEN, cwd=directory)
    assert prepared.returncode == 0, prepared.output
    # Not the run itself: it counts as done, and its store knows files by their absolute paths.
    for path in (directory / "outputs").iterdir():
        if path.name != "cache":
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def fault_of(ended: Ended, directory: Path) -> str:
    """What a command did that none should; an empty text if it worked, or refused what it got in one message."""
    errors = [line for line in ended.output.splitlines() if line.startswith("Error: ")]
    code = ended.returncode
    # MLflow asks git for the commit of the code.
    elsewhere = [path for path in ended.changed if not Path(path).is_relative_to(directory.resolve())]
    elsewhere = [path for path in elsewhere if not path.startswith("/dev/null")]  # No folder, whatever is asked of it.
    for is_fault, what in (
        ("Traceback" in ended.output, "a stack trace"),
        ((code, len(errors)) not in [(0, 0), (2, 1)], f"exit code {code}"),
        (any(len(line) > 3000 for line in errors), "a message without end"),
        ((directory / "owned").exists(), "code ran"),
        (not set(ended.started) <= {"git"}, f"started {ended.started}"),
        (elsewhere, f"wrote to {elsewhere}"),
        (ended.megabytes > MOST_MEGABYTES, f"took {ended.megabytes:.0f} MB"),
    ):
        if is_fault:
            return what
    return ""
