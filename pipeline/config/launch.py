"""Where the runs of a study are computed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pipeline.common.settings import Settings


@dataclass
class Launch(Settings):
    """How many runs of a study are computed at the same time. It has no say in what comes out.

    Attributes:
        workers: Runs at the same time; null for as many as the cores of a Ray cluster allow.
        threads: TensorFlow's threads in each of them. null for as many as TensorFlow takes, which is one a core, or,
            where the images of every step are as tiny as 32 of 16×16 px, for one to compute an operation.
    """

    workers: int | None = 1
    threads: int | None = None

    group: ClassVar[str] = "launch"

    def __post_init__(self) -> None:
        if self.workers is not None:
            self.require_at_least("workers", 1, 2)
        if self.threads is not None:
            self.require_at_least("threads", 1, 1)


def cores() -> int:
    """Cores that this process may use, by affinity and by the limits of a container."""
    import joblib  # Slow to load, and only commands that compute ask.

    return int(joblib.cpu_count())
