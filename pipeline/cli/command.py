"""Makes commands of functions: Hydra's start, one clear message for a mistake, exit codes."""

from __future__ import annotations

import functools
import logging
import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from pipeline.cli.arguments import checked_arguments
from pipeline.cli.ending import EXIT_INTERRUPTED, EXIT_TERMINATED, EXIT_UNREAD, ending_of
from pipeline.cli.failures import Failure, note_failure
from pipeline.cli.loading import leave_quickly
from pipeline.cli.session import SESSION, command_line, sweep_name
from pipeline.cli.terminal import output_is_unread
from pipeline.cli.workers import Home, lost_worker
from pipeline.config import CONFIG_DIR, absolute
from pipeline.config.search import NothingFoundError

log = logging.getLogger("pipeline")

OF_A_JOB = ("MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID", "MLFLOW_EXPERIMENT_NAME")
"""Variables by which another program tells MLflow where to record; here that is `tracking`."""


def command(name: str) -> Callable[[Callable[[DictConfig], Any]], Callable[[], None]]:
    """Makes a command of a function of the configuration that `conf/NAME.yaml` and the command line compose.

    A mistake of the user ends in one message on standard error and exit code 2, Ctrl-C in 130, SIGTERM in 143, the end
    of what reads the output in 141; a bug keeps its stack trace. A sweep of which some runs failed ends in 1. With
    HYDRA_FULL_ERROR=1, mistakes show their stack trace too.
    """

    def decorate(task: Callable[[DictConfig], Any]) -> Callable[[], None]:
        @functools.wraps(task)
        def run() -> None:
            leave_quickly()
            SESSION.begin()
            for variable in OF_A_JOB:
                os.environ.pop(variable, None)
            wants_trace = os.environ.get("HYDRA_FULL_ERROR") == "1"
            try:
                _run_in_hydra(name, task)
            except SystemExit as stopped:
                if stopped.code == EXIT_TERMINATED:
                    SESSION.stop("SIGTERM")
                raise
            except KeyboardInterrupt:
                SESSION.stop("Ctrl-C")
                sys.stderr.write("\nInterrupted. What was begun goes on with the same command.\n")
                sys.exit(EXIT_INTERRUPTED)
            except Exception as error:
                _end_if_unread()
                ending = ending_of(error, SESSION.composed, absolute(SESSION.output_dir))
                if lost := lost_worker(error):
                    SESSION.stop(lost)
                if wants_trace or ending is None:
                    raise
                ending.leave()
            _end_if_unread()
            if SESSION.failures_at_end:
                sys.stderr.write("\n" + "\n".join(message for message, _ in SESSION.failures_at_end) + "\n")
                sys.exit(max(code for _, code in SESSION.failures_at_end))

        return run

    return decorate


def _run_in_hydra(name: str, task: Callable[[DictConfig], Any]) -> None:
    # Makes Hydra hand exceptions on to us instead of printing them its own way.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(EXIT_TERMINATED))
    # A log file on a full disk is not worth a stack trace for each of its lines.
    logging.raiseExceptions = False
    home = Home(os.getpid(), Path.cwd())

    @functools.wraps(task)
    def composed_task(config: DictConfig) -> Any:
        return _run_composed(task, config, home)

    sys.argv[1:] = checked_arguments(sys.argv[1:])
    try:
        hydra.main(version_base="1.3", config_path=str(CONFIG_DIR), config_name=name)(composed_task)()
    except NothingFoundError:
        assert SESSION.sweep_dir is not None
        SESSION.tell_failures(SESSION.sweep_dir, 0)
        if not SESSION.failures_at_end:  # Which say why.
            raise
    if SESSION.failure is not None:
        raise SESSION.failure


def _run_composed(task: Callable[[DictConfig], Any], config: DictConfig, home: Home) -> Any:
    """What Hydra calls in this process, or in that of a worker."""
    SESSION.composed, SESSION.output_dir = True, config.output_dir
    home.move_in()
    if sweep_name() is not None:
        return task(config)
    try:
        return task(config)
    except Exception as error:  # Hydra would print the command line above it.
        SESSION.failure = error
        return None


def _end_if_unread() -> None:
    """Ends the command, without a word, if what reads its output has gone, as `head` and pagers do."""
    if output_is_unread():
        SESSION.stop("the end of what read its output")
        sys.exit(EXIT_UNREAD)


def one_of_many(task: Callable[[DictConfig], float]) -> Callable[[DictConfig], float | None]:
    """Lets a sweep go on after a run of it that failed, whose failure is noted and whose result is None.

    A full disk ends the sweep.
    """

    @functools.wraps(task)
    def run(config: DictConfig) -> float | None:
        if sweep_name() is None:
            return task(config)
        try:
            return task(config)
        except Exception as error:
            _end_if_unread()
            ending = ending_of(error, composed=True, output_path=absolute(config.output_dir))
            if ending is not None and ending.ends_all:
                ending.leave()
            if ending is None:
                traceback.print_exc()
            message = ending.message if ending else f"{type(error).__name__}: {error}"
            log.error("  failed: %s", message)
            failure = Failure(command_line(), message, is_mistake=ending is not None)
            note_failure(failure, Path(HydraConfig.get().runtime.output_dir))
            return None

    return run
