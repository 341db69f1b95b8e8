"""Where the state of a training is kept until its run has ended."""

from __future__ import annotations

from pathlib import Path


def state_files(first: Path) -> tuple[Path, Path]:
    """The state files of a training's two stages, of which `first` is the first."""
    return first, first.with_stem(f"{first.stem}-second_stage")
