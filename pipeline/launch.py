"""Where the runs of a study are computed: in this process, or several at once in processes that a launcher starts."""

from __future__ import annotations

import logging
import os
import signal
import socket
from concurrent.futures import BrokenExecutor
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import UserError, first_line, require_at_least

log = logging.getLogger("pipeline")

EXTRAS = {
    "hydra/launcher/ray": ("launch=ray", "hydra-ray-launcher", "ray"),
    "hydra/launcher/submitit_slurm": ("launch=slurm", "hydra-submitit-launcher", "slurm"),
    "hydra/sweeper/optuna": ("hydra/sweeper=search", "hydra-optuna-sweeper", "optuna"),
}
"""By the option of Hydra that an optional package brings: what is typed, the package, the extra that installs it."""

ENDS_ITS_WORKERS = ("joblib", "ray")
"""Hydra's launchers whose workers end with the launching process; what Slurm has in its queue goes on."""


@dataclass
class Launch:
    """How many runs of a study are computed at the same time. It has no say in what comes out.

    Attributes:
        workers: Runs at the same time; null for as many as the cores of a Ray cluster allow.
        threads: TensorFlow's threads in each of them. null for as many as TensorFlow takes, which is one a core, or,
            where the images of every step are as tiny as 32 of 16×16 px, for one to compute an operation.
    """

    workers: int | None = 1
    threads: int | None = None

    def __post_init__(self) -> None:
        if self.workers is not None:
            require_at_least(1, "launch.workers", self.workers, 2)
        if self.threads is not None:
            require_at_least(1, "launch.threads", self.threads, 1)

    def limit_threads(self, one_is_fastest: bool) -> None:
        """Holds TensorFlow to `threads`, or to one for each operation where nothing is asked for and one is fastest.

        Once TensorFlow has computed in this process, its threads stay as they are.
        """
        import tensorflow as tf

        asked = self.threads or (1 if one_is_fastest else None)
        if asked is None:
            return
        try:
            tf.config.threading.set_intra_op_parallelism_threads(asked)
            if self.threads is not None:
                tf.config.threading.set_inter_op_parallelism_threads(asked)
        except RuntimeError:  # It has computed.
            if self.threads is not None:
                log.warning("launch.threads=%d comes too late: this process has begun with others", self.threads)


def cores() -> int:
    """Cores that this process may use, by affinity and by the limits of a container."""
    import joblib

    return int(joblib.cpu_count())


@dataclass(frozen=True)
class Home:
    """Where a command was given.

    Attributes:
        process: Id of the process that launches.
        directory: Its working directory, from which relative paths are meant.
    """

    process: int
    directory: Path

    def move_in(self) -> None:
        """Makes a worker read relative paths as the launching process does, and leave Ctrl-C to it.

        Raises:
            UserError: There is no such directory on the worker's machine.
        """
        if os.getpid() == self.process:
            return
        # A terminal sends it to the workers, too, but it is the launching process that ends them.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            os.chdir(self.directory)
        except OSError as error:
            raise UserError(
                f"{socket.gethostname()} has no {self.directory}, where the study was started: {error.strerror}. Start "
                "it on a file system that all machines share."
            ) from error


def lost_worker(error: Exception) -> str:
    """What to say of the error of a launcher that has lost a worker; an empty text for any other."""
    if isinstance(error, BrokenExecutor):
        return "a worker process was killed, by hand or because memory ran out, and the others with it"
    launcher = type(error).__module__.partition(".")[0]
    return f"{launcher} has lost a worker ({first_line(error)})" if launcher in ("ray", "submitit") else ""
