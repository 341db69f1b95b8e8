"""Commands of the program in processes that are forked after its imports: a hundred cost what ten starts do.

Each is a process of its own with the program's own `main`, as a user's is. It can be killed at an exact step: the n-th
time that it changes a file, a store or something on a server.
"""

from __future__ import annotations

import atexit
import json
import multiprocessing
import os
import resource
import runpy
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, TextIO

from tests.conftest import HANG_SECONDS

PRELOADED = [
    *("tests.program.forked", "tensorflow", "tensorflow_datasets", "keras", "mlflow", "pandas", "scipy.stats"),
    *("pyarrow.parquet", "optuna", "alembic", "hydra.main", "antlr4", "PIL.Image", "pipeline.cli.command"),
    *("pipeline.config.register", "pipeline.run", "pipeline.study.conclude", "pipeline.other_sizes.refit_convert"),
]
"""None of these starts a thread or opens a store, so that a process may be forked after them."""

FORKED = multiprocessing.get_context("forkserver")
FORKED.set_forkserver_preload(PRELOADED)

CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.link", "os.symlink", "http.client.send"}
"""Audit events of Python that change something, beside the opening of a file for writing."""
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


@dataclass(frozen=True)
class Ended:
    """How a command ended.

    Attributes:
        returncode: Exit code; negative for a signal.
        stdout: What it printed.
        stderr: What it printed of errors.
        seconds: From its start to its end.
        steps: How many changes it made; 0 if it was killed.
        megabytes: Most memory that it had; 0 if it was killed.
        changed: Paths outside of its folder for temporary files that it wrote to, moved or removed by Python's own
            functions; none if it was killed.
        started: Programs that it started.
    """

    returncode: int
    stdout: str
    stderr: str
    seconds: float
    steps: int
    megabytes: float
    changed: frozenset[str]
    started: tuple[str, ...]

    @property
    def output(self) -> str:
        """What it printed on both channels."""
        return self.stdout + self.stderr


def run_forked(
    *arguments: str,
    cwd: Path,
    kill_at: int | None = None,
    kill_after: float | None = None,
    environment: Mapping[str, str] | None = None,
) -> Ended:
    """Runs `python -m ARGUMENTS` in a directory, in a process that has the program's imports already.

    Not for launch=parallel: its workers stay for five minutes, as multiprocessing leaves out what ends them.

    Args:
        arguments: A module and its arguments.
        cwd: Working directory; its folder for temporary files is a new one, which is gone afterwards.
        kill_at: SIGKILL in place of the change with this number, counted from 1.
        kill_after: SIGKILL after so many seconds.
        environment: Variables to set; those that TensorFlow reads when it is imported come too late.
    """
    with tempfile.TemporaryDirectory() as kept:
        about, *channels = (Path(kept) / name for name in ("about.json", "stdout.txt", "stderr.txt"))
        began = time.monotonic()
        process = _started(arguments, cwd, environment, kill_at, about, channels)
        process.join(HANG_SECONDS if kill_after is None else kill_after)
        if process.is_alive():
            process.kill()
        process.join()
        seconds = time.monotonic() - began
        found: dict[str, Any] = json.loads(about.read_text()) if about.exists() else {}
        stdout, stderr = (path.read_text(errors="replace") if path.exists() else "" for path in channels)
    assert process.exitcode is not None
    return Ended(
        process.exitcode,
        stdout,
        stderr,
        seconds,
        found.get("steps", 0),
        found.get("megabytes", 0),
        frozenset(path for path in found.get("changed", ()) if not Path(path).is_relative_to(Path(kept).resolve())),
        tuple(found.get("started", ())),
    )


def _started(
    arguments: tuple[str, ...],
    cwd: Path,
    environment: Mapping[str, str] | None,
    kill_at: int | None,
    about: Path,
    channels: list[Path],
) -> BaseProcess:
    """Starts a command whose folder for temporary files lies beside `about`, which tells of it at its end."""
    temporary = about.with_name("tmp")
    temporary.mkdir()
    variables = {"TMPDIR": str(temporary), "COLUMNS": "140", **(environment or {})}
    told = (arguments, str(cwd), variables, kill_at, str(about), *map(str, channels))
    process = FORKED.Process(target=_command, args=told)
    process.start()
    return process


class Forked:
    """A command that goes on beside the test, as `subprocess.Popen` gives one: what of it the tests use.

    Attributes:
        args: The module and its arguments.
        stdout: What it prints.
        stderr: What it prints of errors; None where that comes with the rest.
        returncode: Exit code, negative for a signal; None before its end was waited for.
    """

    def __init__(
        self, *arguments: str, cwd: Path, stderr: int | None = None, environment: Mapping[str, str] | None = None
    ) -> None:
        """Starts it; `stderr` is `subprocess.PIPE` or `subprocess.STDOUT`, `environment` as for `run_forked`."""
        self.args = arguments
        self.returncode: int | None = None
        self._kept = tempfile.TemporaryDirectory()
        kept = Path(self._kept.name)
        channels = [kept / "stdout", kept / ("stdout" if stderr == subprocess.STDOUT else "stderr")]
        for channel in dict.fromkeys(channels):
            os.mkfifo(channel)
        self._process = _started(arguments, cwd, environment, None, kept / "about.json", channels)
        # In the order in which the command opens them: each waits for the other.
        self.stdout: TextIO = channels[0].open(errors="replace")
        self.stderr = None if stderr == subprocess.STDOUT else channels[1].open(errors="replace")

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    def poll(self) -> int | None:
        """The exit code, or None as long as it goes on."""
        self.returncode = self._process.exitcode
        if self.returncode is not None:
            self._kept.cleanup()
        return self.returncode

    def wait(self, timeout: float = HANG_SECONDS) -> int:
        """Waits for its end; one that does not come within the seconds fails the test."""
        self._process.join(timeout)
        returncode = self.poll()
        assert returncode is not None, f"{self.args} is still there after {timeout} s"
        return returncode

    def communicate(self, timeout: float = HANG_SECONDS) -> tuple[str, str]:
        """Waits for its end; returns what it has printed on both channels since it was last read."""
        with ThreadPoolExecutor() as readers:
            read = [readers.submit(channel.read) if channel else None for channel in (self.stdout, self.stderr)]
            try:
                self.wait(timeout)
            except AssertionError:
                self.kill()  # The readers wait for it.
                raise
        stdout, stderr = (future.result() if future else "" for future in read)
        return stdout, stderr

    def send_signal(self, number: int) -> None:
        """Sends a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        """Sends SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Sends SIGKILL."""
        self.send_signal(signal.SIGKILL)


class _Watch:
    """Counts and names what the process changes, and kills it at a step."""

    def __init__(self, kill_at: int | None) -> None:
        self.steps, self.kill_at, self.process = 0, kill_at, os.getpid()
        self.changed: set[str] = set()
        self.started: list[str] = []

    def step(self) -> None:
        self.steps += 1
        if self.steps == self.kill_at and os.getpid() == self.process:
            os.kill(self.process, signal.SIGKILL)

    def audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, mode, flags = arguments
            wants = any(letter in mode for letter in "wax+") if mode else bool(flags & WRITING)
            if not wants or isinstance(path, int) or os.fsdecode(path).startswith(("/dev/", "/proc/")):
                return
            self.changed.add(os.path.realpath(os.fsdecode(path)))
            self.step()
        elif event in CHANGES:
            if event.startswith("os."):
                paths = (path for path in arguments if isinstance(path, str | bytes | os.PathLike))
                self.changed |= {os.path.realpath(os.fsdecode(path)) for path in paths}
            self.step()
        elif event == "subprocess.Popen":
            self.started.append(os.fsdecode(arguments[0]))

    def statement(self, connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
        if not statement.lstrip().upper().startswith(("SELECT", "PRAGMA")):
            self.step()

    def commit(self, connection: Any) -> None:
        self.step()


def _command(
    arguments: tuple[str, ...],
    cwd: str,
    variables: dict[str, str],
    kill_at: int | None,
    about: str,
    stdout: str,
    stderr: str,
) -> None:
    """What the forked process does."""
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    for channel, path in ((1, stdout), (2, stderr)):
        os.dup2(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND), channel)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.environ.update(variables)
    tempfile.tempdir = None
    os.chdir(cwd)
    sys.path.insert(0, cwd)  # As `python -m` does.
    sys.argv = [arguments[0], *arguments[1:]]
    sys.dont_write_bytecode = True  # Python's own files are no doing of the program.
    warnings.simplefilter("ignore", RuntimeWarning)
    signal.signal(signal.SIGINT, signal.default_int_handler)

    import sqlalchemy.event
    from sqlalchemy.engine import Engine

    watch = _Watch(kill_at)
    sqlalchemy.event.listen(Engine, "before_cursor_execute", watch.statement)
    sqlalchemy.event.listen(Engine, "commit", watch.commit)
    sys.addaudithook(watch.audit)
    try:
        runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)
    finally:
        atexit._run_exitfuncs()  # multiprocessing leaves them out.
        watch.kill_at = None
        told = {
            "steps": watch.steps,
            "megabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
            "changed": sorted(watch.changed),
            "started": watch.started,
        }
        Path(about).write_text(json.dumps(told))
