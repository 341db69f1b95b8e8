"""Imports without the garbage collector, in a process of their own, since what it froze stays so."""

from __future__ import annotations

import subprocess
import sys
import textwrap

from tests.conftest import ROOT, program_environment

SCRIPT = textwrap.dedent("""
    import atexit
    import gc

    from pipeline.cli.loading import leave_quickly, loading

    atexit.register(lambda: print("at the end", gc.get_freeze_count() > before + 4000))  # The last to be called.
    leave_quickly()
    assert gc.get_freeze_count() == 0
    try:
        with loading():
            assert not gc.isenabled()
            made = [[] for _ in range(1000)]
            raise ImportError
    except ImportError:
        assert gc.isenabled()
    before = gc.get_freeze_count()
    assert before >= 1000
    with loading():  # Only once: what a process has dropped later is not to be kept for ever.
        assert gc.isenabled()
    assert gc.get_freeze_count() == before
    more = [[] for _ in range(5000)]
""")


def test_what_is_loaded_is_not_collected_and_nothing_is_at_the_end() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], cwd=ROOT, env=program_environment(), capture_output=True, text=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "at the end True\n", "")
