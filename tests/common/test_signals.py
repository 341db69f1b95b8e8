"""An interruption waits until what must not be left half done is done."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator

import pytest

from pipeline.common.signals import deferred


@pytest.fixture(autouse=True)
def ctrl_c_interrupts() -> Iterator[None]:
    """Also where the tests run in the background of a shell, which makes them ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_ctrl_c_waits_for_the_end_of_the_block() -> None:
    done = []
    with pytest.raises(KeyboardInterrupt):
        with deferred():
            signal.raise_signal(signal.SIGINT)
            done.append("all of it")
        done.append("what comes after")
    assert done == ["all of it"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_decorated_function_is_held_at_each_call() -> None:
    calls = []

    @deferred()
    def write() -> None:
        signal.raise_signal(signal.SIGINT)
        calls.append(1)

    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            write()
    assert calls == [1, 1]


def test_blocks_within_blocks_wait_for_the_outermost() -> None:
    done = []
    with pytest.raises(KeyboardInterrupt), deferred():
        with deferred():
            signal.raise_signal(signal.SIGINT)
        done.append("the rest of the outer one")
    assert done == ["the rest of the outer one"]


def test_the_handler_of_sigterm_is_called_once() -> None:
    calls: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: calls.append(number))
    try:
        with deferred():
            signal.raise_signal(signal.SIGTERM)
            signal.raise_signal(signal.SIGTERM)
            assert calls == []
        assert calls == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGTERM, before)


def test_other_threads_are_left_alone() -> None:
    done: list[str] = []

    def work() -> None:
        with deferred():
            done.append("worked")

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done == ["worked"]
