"""Runs of a sweep that failed: noted one by one while the others go on, told together at its end."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from pipeline.common.files import atomic_write

FILE = "failure.json"
"""In the directory that Hydra gives each run of a sweep."""


@dataclass(frozen=True)
class Failure:
    """A run that failed.

    Attributes:
        command: What to type to run it again.
        message: What went wrong, for people.
        is_mistake: Whether the user can mend it; otherwise it is a bug of the program.
    """

    command: str
    message: str
    is_mistake: bool = True


def note_failure(failure: Failure, directory: Path) -> None:
    """Notes the failure of the run to which Hydra has given a directory."""
    with atomic_write(directory / FILE) as beside:
        beside.write_text(json.dumps(asdict(failure)))


def sweep_failures(directory: Path) -> list[Failure]:
    """The failures of a sweep whose runs have directories in `directory`, in the order of the runs."""
    files = sorted(directory.glob(f"*/{FILE}"), key=lambda path: (len(path.parent.name), path.parent.name))
    return [Failure(**json.loads(path.read_text())) for path in files]


def summary(failures: list[Failure]) -> str:
    """What failed, why, and what to type to run just these again; runs that failed alike together."""
    lines = [f"{len(failures)} {'run' if len(failures) == 1 else 'runs'} of this sweep failed:"]
    for message in dict.fromkeys(failure.message for failure in failures):
        lines.append(f"- {message}")
        lines += [f"  Again: {failure.command}" for failure in failures if failure.message == message]
    lines.append("The command of the sweep tries all of these again, and none that has finished.")
    return "\n".join(lines)
