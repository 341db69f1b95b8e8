"""How a command ends: what an error says, and its exit code."""

from __future__ import annotations

import errno
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from pipeline.cli.messages import explain, is_out_of_memory
from pipeline.cli.session import EXIT_FAILED, EXIT_MISTAKE
from pipeline.cli.workers import lost_worker
from pipeline.common.errors import UserError
from pipeline.common.files import DiskFullError, sign_of_full_disk, writable_places

EXIT_INTERRUPTED = 128 + signal.SIGINT
EXIT_TERMINATED = 128 + signal.SIGTERM
EXIT_UNREAD = 128 + signal.SIGPIPE
CANNOT_WRITE = {
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.EEXIST),
    *(errno.ENOSPC, errno.EDQUOT, errno.ENAMETOOLONG),
}
"""Errors of the file system that the user can mend."""


@dataclass(frozen=True)
class Ending:
    """How a command ends.

    Attributes:
        message: For people.
        code: Exit code.
        ends_all: Whether the other runs of a sweep would end so as well, perhaps only after hours of training.
    """

    message: str
    code: int
    ends_all: bool = False

    def leave(self) -> NoReturn:
        """Ends the command at once, also from where Hydra would not let an error through."""
        sys.stderr.write(f"\nError: {self.message}\n")
        sys.exit(self.code)


def ending_of(error: Exception, composed: bool, output_path: Path) -> Ending | None:
    """How a command ends with an error; None for a bug of the program, which keeps its stack trace.

    Args:
        error: What was raised.
        composed: Whether a configuration had been composed; what Hydra raises before that is about the command line.
        output_path: The `output_dir`, of whose disks a message about a full one tells.
    """
    if (sign := sign_of_full_disk(error, output_path)) is not None:
        full = sign if isinstance(sign, DiskFullError) else DiskFullError(sign, writable_places(output_path))
        return Ending(str(full), EXIT_FAILED, ends_all=True)
    if lost := lost_worker(error):
        return Ending(f"{lost}. What was begun goes on, and the rest runs, with the same command.", EXIT_FAILED)
    return None if composed and not is_mistake(error) else Ending(explain(error), EXIT_MISTAKE)


def is_mistake(error: BaseException) -> bool:
    """Whether the user can mend what went wrong; all else is a bug of the program."""
    known = isinstance(error, UserError | HydraException | OmegaConfBaseException)
    return known or is_out_of_memory(error) or getattr(error, "errno", None) in CANNOT_WRITE
