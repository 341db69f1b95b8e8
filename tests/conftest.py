"""What the tests share: composed configurations, and runs that several tests read back."""

from __future__ import annotations

import functools
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import psutil
import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

from filelock import FileLock
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from pipeline.config import CONFIG_DIR, Config, register, to_typed
from pipeline.tracking.settings import STORE_FILE, Tracking
from pipeline.training.settings import Precision

if TYPE_CHECKING:
    from tests.program.forked import Forked

ROOT = Path(__file__).parents[1]
HANG_SECONDS = 900
"""The one limit for programs, servers, browsers and processes of tests. It ends what hangs and measures nothing: what
takes a minute alone takes several times as long beside other work."""

LONG_PREPARED = {"address", "place", "reports", "study"}
"""Fixtures that a file's tests share and that take long: with `--dist loadgroup` these tests stay in one process."""


_register_once = functools.cache(register)


def composed(*overrides: str, command: str = "train") -> DictConfig:
    """What Hydra composes for a command line."""
    _register_once()
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        return compose(command, overrides=list(overrides))


def typed(*overrides: str) -> Config:
    """The typed configuration for a command line."""
    return to_typed(composed(*overrides), Config)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--screenshots", help="directory for the pictures that test_browser.py and test_pictures.py take")
    parser.addoption("--times", type=int, default=1, help="how many times as many cases some slow tests try")


@pytest.fixture
def times(request: pytest.FixtureRequest) -> int:
    """How many times as many cases are tried as by default."""
    times: int = request.config.getoption("--times")
    return times


@pytest.hookimpl(tryfirst=True)  # Before xdist, which reads the groups.
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if isinstance(item, pytest.Function) and LONG_PREPARED & set(item.fixturenames):
            item.add_marker(pytest.mark.xdist_group(item.path.stem))
        runs_it = isinstance(item, pytest.Function) and "tiny_study" in item.fixturenames
        if runs_it or ROOT / "tests" / "program" in item.path.parents:
            item.add_marker("program")


def pytest_collection_finish(session: pytest.Session) -> None:
    if session.config.getoption("loadgroup", default=False):
        grouped = [item for item in session.items if item.get_closest_marker("xdist_group")]
        assert all("@" in item.nodeid for item in grouped), "this pytest-xdist does not group tests with this pytest"


def program_environment() -> dict[str, str]:
    """Environment of the program as a user runs it, from any directory."""
    return {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "140"}


def start_program(
    *arguments: str,
    cwd: Path,
    stderr: int | None = None,
    start_new_session: bool = False,
    environment: dict[str, str] | None = None,
) -> subprocess.Popen[str]:
    """Starts `python -m ARGUMENTS` as a user does in a terminal: it heeds Ctrl-C, also where these tests do not."""
    return subprocess.Popen(
        [sys.executable, "-m", *arguments],
        cwd=cwd,
        env={**program_environment(), **(environment or {})},
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
        start_new_session=start_new_session,
        # What a shell starts in the background ignores it, and so does what that starts.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def read_until(process: subprocess.Popen[str] | Forked, text: str) -> str:
    """Waits for a line that holds a text; returns all that a process has printed up to it."""
    assert process.stdout is not None
    printed = ""
    for line in process.stdout:
        printed += line
        if text in line:
            return printed
    pytest.fail(f"{text!r} was not printed, but {printed}")


@contextmanager
def standing_still(process: subprocess.Popen[str] | Forked, store: Path) -> Iterator[None]:
    """Within the block a process does nothing, so that it is no race what happens first; it holds no lock of its store.

    Args:
        process: Of the program.
        store: The file of the MLflow store in its `output_dir`.
    """
    while True:
        process.send_signal(signal.SIGSTOP)
        while psutil.Process(process.pid).status() not in (psutil.STATUS_STOPPED, psutil.STATUS_ZOMBIE):
            time.sleep(0.01)
        try:
            with closing(sqlite3.connect(store, timeout=0)) as database:
                database.execute("BEGIN EXCLUSIVE")
            break
        except sqlite3.OperationalError:  # It was about to write.
            process.send_signal(signal.SIGCONT)
            time.sleep(0.01)
    try:
        yield
    finally:
        process.send_signal(signal.SIGCONT)


def run_program(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs `python -m ARGUMENTS` as a user does, in a directory and with environment variables of its own."""
    return subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=cwd,
        env={**program_environment(), **environment},
        timeout=HANG_SECONDS,
        capture_output=True,
        text=True,
    )


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """What a test draws without a seed of its own, such as a layer's first weights, is the same in every run.

    And so in every order of the tests: each model that the program builds leaves a seed behind.
    """
    random.seed(0)
    np.random.seed(0)
    if "keras" in sys.modules:  # Tests of programs alone go without TensorFlow.
        sys.modules["keras"].utils.set_random_seed(0)


@pytest.fixture
def in_precision() -> Iterator[Callable[[Precision], None]]:
    """Sets the precision of what Keras builds from then on; the test's end sets float32."""
    import keras

    yield lambda precision: keras.config.set_dtype_policy(precision.value)
    keras.config.set_dtype_policy("float32")


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of a store without runs; MLflow takes two seconds to make one."""
    from pipeline.tracking.store import open_store

    directory = tmp_path_factory.mktemp("empty_store")
    open_store(Tracking(), directory)
    return directory / STORE_FILE


@pytest.fixture
def store(tmp_path: Path, empty_store: Path) -> Path:
    """An `output_dir` with a store without runs, at which MLflow points."""
    from pipeline.tracking.store import open_store

    with closing(sqlite3.connect(empty_store)) as made, closing(sqlite3.connect(tmp_path / STORE_FILE)) as copy:
        made.backup(copy)
    open_store(Tracking(), tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def tiny_study(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """Directory of a study on digits: three heads, one seed, two epochs, run as a user runs it.

    The processes of a test run share it, so a test that would write into it takes a copy.
    """
    own = tmp_path_factory.getbasetemp()
    shared = own if worker_id == "master" else own.parent
    directory = shared / "tiny_study"
    printed = directory / "stdout.txt"
    with FileLock(shared / "tiny_study.lock"):
        if not printed.exists():
            directory.mkdir()
            result = run_program("pipeline.train", "study=heads", "seed=0", "training.epochs=2", cwd=directory)
            assert result.returncode == 0, result.stderr
            printed.write_text(result.stdout)
    return directory
