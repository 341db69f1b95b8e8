"""The terminal, and what of TensorFlow is kept from it."""

from __future__ import annotations

import os
import select
import sys
from pathlib import Path

from rich.console import Console

from pipeline.common.standard_error import turned_aside


def import_tensorflow() -> None:
    """Imports TensorFlow and Keras without their notes on standard error, in the form that this program is made for.

    They write some of these before any of their settings is read, so the file descriptor itself is turned aside;
    if the import fails, what was written is shown. A terminal is told at once what it waits for.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ["KERAS_BACKEND"] = "tensorflow"  # Whatever another project of the user needs.
    if "tensorflow" in sys.modules:
        return
    if sys.stdout.isatty():
        console().print("Loading TensorFlow …")
    with turned_aside(shown_on_error=True):
        import keras
        import tensorflow as tf

        # Not those of the user's keras.json.
        keras.config.set_image_data_format("channels_last")
        keras.config.set_floatx("float32")
        tf.config.list_physical_devices()


class Output(Console):
    """Standard output, in colours and tables."""

    def on_broken_pipe(self) -> None:
        """Leaves the end of the command to `pipeline.cli.command`; Rich would end it at once.

        Raises:
            BrokenPipeError: Always.
        """
        raise BrokenPipeError


def console() -> Console:
    """Standard output; wide enough for a table where it is not a terminal.

    Names from outside are shown as they are: `[/x]` and `:x:` mean nothing.
    """
    return Output(width=None if sys.stdout.isatty() else 140, markup=False, emoji=False)


def output_is_unread() -> bool:
    """Whether what read standard output has gone; if so, what is still to be written to it goes nowhere."""
    poll = select.poll()
    poll.register(1, select.POLLOUT)
    unread = any(event & select.POLLERR for _, event in poll.poll(0))
    if unread:
        with Path(os.devnull).open("w") as nowhere:
            os.dup2(nowhere.fileno(), 1)
    return unread
