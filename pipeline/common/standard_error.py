"""Standard error, turned aside while a library writes notes to it that are not the user's business."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def turned_aside(shown_on_error: bool) -> Iterator[None]:
    """Keeps from the terminal what is written to standard error within the block, by code in C++ too.

    Args:
        shown_on_error: Show it after all if the block ends with an error.
    """
    sys.stderr.flush()
    terminal = os.dup(2)
    with tempfile.TemporaryFile() as notes:
        os.dup2(notes.fileno(), 2)
        try:
            yield
        except BaseException:
            if shown_on_error:
                notes.seek(0)
                os.write(terminal, notes.read())
            raise
        finally:
            sys.stderr.flush()
            os.dup2(terminal, 2)
            os.close(terminal)
