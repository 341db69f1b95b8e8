"""The terminal, and what of TensorFlow is kept from it."""

from __future__ import annotations

import os
import sys
import tempfile

from rich.console import Console


def import_tensorflow() -> None:
    """Imports TensorFlow and Keras without their notes on standard error.

    They write some of these before any of their settings is read, so the file descriptor itself is turned aside;
    if the import fails, what was written is shown.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    if "tensorflow" in sys.modules:
        return
    sys.stderr.flush()
    terminal = os.dup(2)
    with tempfile.TemporaryFile() as notes:
        os.dup2(notes.fileno(), 2)
        try:
            import keras  # noqa: F401
            import tensorflow as tf

            tf.config.list_physical_devices()
        except BaseException:
            notes.seek(0)
            os.write(terminal, notes.read())
            raise
        finally:
            os.dup2(terminal, 2)
            os.close(terminal)


def console() -> Console:
    """Standard output; wide enough for a table where it is not a terminal."""
    return Console(width=None if sys.stdout.isatty() else 140)
