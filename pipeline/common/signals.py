"""Ctrl-C and SIGTERM, deferred where half a result would be left."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def deferred() -> Iterator[None]:
    """Within the block, or a function that it decorates, Ctrl-C and SIGTERM wait for its end.

    Libraries of databases leave transactions open, or raise errors of their own, where an interruption hits them.
    Outside of the main thread, where Python handles no signals, this does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    arrived: list[int] = []
    before = {number: signal.signal(number, lambda number, _: arrived.append(number)) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            if handler is not None:  # None: not set by Python, which cannot set it again.
                signal.signal(number, handler)
        if arrived:
            signal.raise_signal(arrived[0])
