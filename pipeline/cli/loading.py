"""Large libraries, loaded and left without Python's garbage collector.

TensorFlow and MLflow make a great many objects that live as long as the process. The collector looks at all of them
again and again while they are made, and when the process ends, and finds nothing to free.
"""

from __future__ import annotations

import atexit
import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def loading() -> Iterator[None]:
    """For a block of imports: nothing is collected in it, nor of what it made, ever; the first time in a process."""
    if gc.get_freeze_count() > 0 or not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def leave_quickly() -> None:
    """When the process ends, nothing is collected any more: its memory goes as a whole."""
    atexit.register(gc.freeze)
