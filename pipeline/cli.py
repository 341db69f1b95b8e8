"""What the commands share: Hydra's start, one clear message for a mistake, exit codes."""

from __future__ import annotations

import errno
import functools
import logging
import math
import os
import re
import shlex
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import InterpolationResolutionError, OmegaConfBaseException
from rich.console import Console

from pipeline import config as schema
from pipeline import failures, launch, storage
from pipeline.errors import UserError, suggestion
from pipeline.tracking.store import Tracking

log = logging.getLogger("pipeline")

EXIT_FAILED = 1
EXIT_MISTAKE = 2
EXIT_INTERRUPTED = 128 + signal.SIGINT
EXIT_TERMINATED = 128 + signal.SIGTERM
CANNOT_WRITE = {
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.EEXIST),
    *(errno.ENOSPC, errno.EDQUOT, errno.ENAMETOOLONG),
}
"""Errors of the file system that the user can mend."""


def command(name: str) -> Callable[[Callable[[DictConfig], Any]], Callable[[], None]]:
    """Makes a command of a function of the configuration that `conf/NAME.yaml` and the command line compose.

    A mistake of the user ends in one message on standard error and exit code 2, Ctrl-C in 130, SIGTERM in 143; a bug
    keeps its stack trace. A sweep of which some runs failed ends in 1. With HYDRA_FULL_ERROR=1, mistakes show their
    stack trace too.
    """

    def decorate(task: Callable[[DictConfig], Any]) -> Callable[[], None]:
        @functools.wraps(task)
        def run() -> None:
            wants_trace = os.environ.get("HYDRA_FULL_ERROR") == "1"
            # Makes Hydra hand exceptions on to us instead of printing them its own way.
            os.environ["HYDRA_FULL_ERROR"] = "1"
            signal.signal(signal.SIGTERM, lambda *_: sys.exit(EXIT_TERMINATED))
            # A log file on a full disk is not worth a stack trace for each of its lines.
            logging.raiseExceptions = False
            composed, home = False, launch.Home(os.getpid(), Path.cwd())
            failure: Exception | None = None

            @functools.wraps(task)
            def composed_task(config: DictConfig) -> Any:
                nonlocal composed, failure
                composed = True
                WritingTo.output_dir = config.output_dir
                home.move_in()
                if sweep_name() is not None:
                    return task(config)
                try:
                    return task(config)
                except Exception as error:  # Hydra would print the command line above it.
                    failure = error

            start = hydra.main(version_base="1.3", config_path=str(schema.CONFIG_DIR), config_name=name)(composed_task)
            try:
                _refuse_passwords()
                try:
                    start()
                except ValueError as error:  # Optuna's, where none of a search's runs has a result.
                    if WritingTo.sweep_dir is None or "No trials are completed yet" not in str(error):
                        raise
                    tell_failures(WritingTo.sweep_dir, 0)
                    if not _failed_at_end:
                        end(
                            "No run has a validation accuracy for a search to go by. Use "
                            "dataset.validation_fraction=0.1."
                        )
                if failure is not None:
                    raise failure
                if _failed_at_end:
                    sys.stderr.write("\n" + "\n".join(message for message, _ in _failed_at_end) + "\n")
                    sys.exit(max(code for _, code in _failed_at_end))
            except SystemExit as stopped:
                if stopped.code == EXIT_TERMINATED:
                    _stop("SIGTERM")
                raise
            except KeyboardInterrupt:
                _stop("Ctrl-C")
                sys.stderr.write("\nInterrupted. What was begun goes on with the same command.\n")
                sys.exit(EXIT_INTERRUPTED)
            except Exception as error:
                if storage.is_full(error) and not wants_trace:
                    _end_with_full_disk(error)
                if lost := launch.lost_worker(error):
                    _stop(lost)
                    end(f"{lost}. What was begun goes on, and the rest runs, with the same command.", EXIT_FAILED)
                # Whatever Hydra raises before the first run begins is about the command line.
                if wants_trace or (composed and not is_mistake(error)):
                    raise
                end(explain(error))

        return run

    return decorate


def _refuse_passwords() -> None:
    """Raises `ConfigError` if an address on the command line holds a user, before Hydra prints and writes it."""
    for argument in sys.argv[1:]:
        if address := re.search(r"\w+://[^\s/@]*@[\w.:-]*", argument):
            Tracking(uri=address.group())


class WritingTo(Callback):
    """Learns from Hydra, before Hydra itself writes anything, where the program writes to, and what it sweeps over."""

    output_dir = "."
    sweep_dir: Path | None = None
    sweeps_over: frozenset[str] = frozenset()

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        type(self).output_dir = config.output_dir

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        self.on_run_start(config)
        type(self).sweep_dir = Path(config.hydra.sweep.dir)
        of_study = [f"{key}={value}" for key, value in (config.hydra.sweeper.get("params") or {}).items()]
        overrides = OverridesParser.create().parse_overrides([*of_study, *config.hydra.overrides.task])
        type(self).sweeps_over = frozenset(each.key_or_group for each in overrides if each.is_sweep_override())


def _end_with_full_disk(error: Exception) -> NoReturn:
    if not isinstance(error, storage.DiskFullError):
        error = storage.DiskFullError(error, storage.places_of(schema.absolute(WritingTo.output_dir)))
    end(str(error), EXIT_FAILED)


def end(message: str, code: int = EXIT_MISTAKE) -> NoReturn:
    """Ends the command at once, also from where Hydra would not let an error through."""
    sys.stderr.write(f"\nError: {message}\n")
    sys.exit(code)


def one_of_many(task: Callable[[DictConfig], float]) -> Callable[[DictConfig], float | None]:
    """Lets a sweep go on after a run of it that failed, whose failure is noted and whose result is None.

    A full disk ends the sweep.
    """

    @functools.wraps(task)
    def run(config: DictConfig) -> float | None:
        if sweep_name() is None:
            return task(config)
        try:
            result = task(config)
            return None if math.isnan(result) else result  # Optuna stops at NaN, but not at None.
        except Exception as error:
            if storage.is_full(error):  # What follows would fail as well, perhaps only after hours of training.
                _end_with_full_disk(error)
            message = explain(error) if is_mistake(error) else f"{type(error).__name__}: {error}"
            if not is_mistake(error):
                traceback.print_exc()
            log.error("  failed: %s", message)
            failure = failures.Failure(command_line(), message, is_mistake(error))
            failures.note(failure, Path(HydraConfig.get().runtime.output_dir))
            return None

    return run


_if_stopped: list[Callable[[str], None]] = []


def if_stopped(action: Callable[[str], None]) -> None:
    """Has something done, given the reason, if the command is stopped before its end."""
    _if_stopped.append(action)


def _stop(reason: str) -> None:
    for action in _if_stopped:
        action(reason)


_failed_at_end: list[tuple[str, int]] = []


def fail_at_end(message: str, code: int = EXIT_FAILED) -> None:
    """Makes the command end with a message on standard error and an exit code, once all else is done."""
    _failed_at_end.append((message, code))


def tell_failures(sweep_dir: Path, finished: int | None) -> None:
    """Makes the command end with what failed in a sweep, if anything did.

    Args:
        sweep_dir: Hydra's directory of the sweep.
        finished: How many of its runs finished; None if that is not known.
    """
    failed = failures.of_sweep(sweep_dir)
    if finished == 0 and len({failure.message for failure in failed}) == 1 and failed[0].is_mistake:
        fail_at_end(f"Error: {failed[0].message}", EXIT_MISTAKE)  # A mistake in what all runs share.
    elif failed:
        fail_at_end(failures.summary(failed))


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


def command_line() -> str:
    """What to type to run just this job again, also if it was one of a sweep."""
    hydra_config = HydraConfig.get()
    overrides = [text for text in hydra_config.overrides.task if not text.startswith("hydra.")]
    if hydra_config.runtime.choices.get("study") not in (None, "null"):
        overrides.append("hydra.mode=RUN")  # A study would start all of its runs.
    return shlex.join(["python", "-m", "pipeline.train", *overrides])


def sweep_name() -> str | None:
    """Name of the running sweep, the same for all of its runs and for no other; None outside of one."""
    hydra_config = HydraConfig.get()
    if hydra_config.mode is not RunMode.MULTIRUN:
        return None
    return sweep_name_of(hydra_config.sweep.dir)


def sweep_name_of(sweep_dir: str) -> str:
    """Name of the sweep that writes into a directory."""
    return Path(sweep_dir).name


def image_sizes_vary() -> bool:
    """Whether the runs of this process, a sweep, may differ in how many pixels they compute in a step."""
    sized = re.compile(r"dataset(\..*)?|training(\.(batch_size|sizes))?|arm")
    return any(map(sized.fullmatch, WritingTo.sweeps_over))


def console() -> Console:
    """Standard output; wide enough for a table where it is not a terminal."""
    return Console(width=None if sys.stdout.isatty() else 140)


def is_mistake(error: BaseException) -> bool:
    """Whether the user can mend what went wrong; all else is a bug of the program."""
    known = isinstance(error, UserError | HydraException | OmegaConfBaseException)
    return known or _is_out_of_memory(error) or getattr(error, "errno", None) in CANNOT_WRITE


def _is_out_of_memory(error: BaseException) -> bool:
    # TensorFlow's is told by its name: it may not be imported yet.
    return isinstance(error, MemoryError) or type(error).__name__ == "ResourceExhaustedError"


def explain(error: Exception) -> str:
    """One message for a mistake: the setting, the value received, the rule, the remedy."""
    if isinstance(error, UserError):
        return str(error)
    if _is_out_of_memory(error):
        what = re.sub(r"\{\{.*?\}\} | on /job:.*", "", str(error).partition("\n")[0])
        return (
            f"There is not enough memory: {what}. Use a smaller training.batch_size, size_probe.batch_size, "
            "dataset.image_size, backbone.filters or head.hidden_units."
        )
    cause = error if isinstance(error, OmegaConfBaseException) else error.__cause__
    if isinstance(error, MissingConfigException):
        return _explain_missing_option(error)
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror}. Use an output_dir that can be written to, with room in it: output_dir=PATH."
    if isinstance(cause, OmegaConfBaseException) and cause.full_key:
        return _explain_value(cause.full_key, str(error), cause)
    first = next(iter(str(error).strip().splitlines()), type(error).__name__).rstrip(".")
    if isinstance(error, OverrideParseException):
        return (
            f"{error.override}: cannot be read as key=value ({first}). Quote a value with special characters "
            "twice, for the shell and for Hydra, as in \"dataset.train_split='train[:80%]'\"."
        )
    if first.startswith("Ambiguous value"):
        return f"{first}: several values make a sweep. Add --multirun to try each, or write [a,b] for a list."
    # What Hydra says of an option that is not a name does not say of which.
    chosen = [text for text in sys.argv[1:] if text.partition("=")[0] in schema.GROUPS]
    shown = f"{' '.join(chosen)}: {first}" if chosen else first
    return f"{shown}. See python -m pipeline.train --help for settings and examples."


def _explain_missing_option(error: MissingConfigException) -> str:
    group, _, option = (error.missing_cfg_file or "").rpartition("/")
    options = list(error.options or [])
    if error.missing_cfg_file in launch.EXTRAS:
        typed, package, extra = launch.EXTRAS[error.missing_cfg_file]
        return f"{typed} needs the package {package}: pip install '.[{extra}]'"
    if not group or not options:
        return str(error).strip().splitlines()[0]
    hint = suggestion(option, options)
    return f"{group}={option}: there is no such option. Use one of {', '.join(options)}. {hint}".strip()


def _explain_value(key: str, message: str, cause: OmegaConfBaseException) -> str:
    typed = re.search(r"=(.*)$", message.splitlines()[0]) or re.search(r"\+[\w.]+=(.*)$", message)
    value = typed.group(1) if typed else None
    if "not in" in str(cause):
        parent = cause.parent_node
        known = [str(name) for name in parent] if isinstance(parent, DictConfig) else []
        return str(schema.unknown_key(key, value, known))
    if isinstance(cause, InterpolationResolutionError):
        quoted = re.search(r'"(.+)"', str(cause))
        why = quoted.group(1) if quoted else str(cause).splitlines()[0]
        return f"{key} has no value: {why}. Set it, or give {key}=VALUE."
    key = re.sub(r"\[\d+\]$", "", key)  # The setting that was typed, not its element.
    rule = str(cause).splitlines()[0].rstrip(".")
    if "is not a ListConfig" in rule:
        rule = f"must be a list, such as {key}=[{value or '1,2'}]"
    shown = key if value is None else f"{key}={value}"
    return f"{shown}: {rule}. python -m pipeline.train --cfg job shows every setting with a valid value."
