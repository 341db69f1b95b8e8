"""The weights that Keras offers for download: in which file it keeps them, and what to do where there is no network."""

from __future__ import annotations

import functools
import logging
import socket
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras

from pipeline.common.errors import ConfigError, first_line

log = logging.getLogger("pipeline")

TIMEOUT_SECONDS = 10
"""After which a server that says nothing is not waited for."""


@dataclass
class _WantedError(Exception):
    """Ends the building of a network where it asks for its weights.

    Attributes:
        name: Of the file.
        origin: Its address.
        options: What else Keras's `get_file` is given.
    """

    name: str
    origin: str
    options: dict[str, Any]


def imagenet_file(network: Callable[..., keras.Model]) -> Path:
    """The file of a network's weights without its top, trained on ImageNet; downloaded by Keras if it is not there.

    Args:
        network: A network of `keras.applications`.

    Raises:
        ConfigError: It is not there, and cannot be downloaded.
    """
    files = _files_module(network)
    wanted = _wanted(network)
    path = Path(files.config.keras_home()).expanduser() / wanted.options["cache_subdir"] / wanted.name
    if not path.is_file():
        log.info("Keras downloads %s to %s", wanted.origin, path)
    try:
        with _silent(), _patience():
            return Path(files.get_file(wanted.name, wanted.origin, **wanted.options))
    except Exception as error:  # Keras raises its own class for what is no answer, and sockets raise theirs.
        raise ConfigError(
            "backbone.weights",
            "imagenet",
            f"Keras looks for {path}, which is not there or not whole, and cannot download it: {first_line(error)}",
            f"Download {wanted.origin} where there is a network and put it there, or use backbone.weights=null.",
        ) from error


@functools.cache
def _wanted(network: Callable[..., keras.Model]) -> _WantedError:
    """What a network asks for, found by building it up to that point."""
    files = _files_module(network)
    real = files.get_file

    def ask(fname: str, origin: str, **options: Any) -> None:
        raise _WantedError(fname, origin, options)

    files.get_file = ask
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "`input_shape` is undefined")
            network(include_top=False, weights="imagenet", input_shape=(None, None, 3))
    except _WantedError as wanted:
        return wanted
    finally:
        files.get_file = real
    raise AssertionError(f"{network} asked for no file")


def _files_module(network: Callable[..., keras.Model]) -> Any:
    """Keras's module of `get_file`, by which all of its networks ask for their weights."""
    return sys.modules[network.__module__].file_utils


@contextmanager
def _silent() -> Iterator[None]:
    """Without Keras's own lines and progress bar, which would stand before a message."""
    was_on = keras.config.is_interactive_logging_enabled()
    keras.config.disable_interactive_logging()
    try:
        yield
    finally:
        if was_on:
            keras.config.enable_interactive_logging()


@contextmanager
def _patience() -> Iterator[None]:
    """Keras's download has no limit of its own: a network that drops everything would be waited for for minutes."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(TIMEOUT_SECONDS)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
