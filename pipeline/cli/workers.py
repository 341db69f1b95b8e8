"""Processes that compute runs for a launching one."""

from __future__ import annotations

import os
import signal
import socket
from concurrent.futures import BrokenExecutor
from dataclasses import dataclass
from pathlib import Path

from pipeline.common.errors import UserError, first_line

ENDS_ITS_WORKERS = ("joblib", "ray")
"""Hydra's launchers whose workers end with the launching process; what Slurm has in its queue goes on."""


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
