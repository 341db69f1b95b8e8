"""Where configurations live, and what relative paths mean."""

from __future__ import annotations

from pathlib import Path

from pipeline.common.files import expanded

_PACKAGE = Path(__file__).resolve().parents[1]
PROJECT_ROOT = _PACKAGE if (_PACKAGE / "conf").is_dir() else _PACKAGE.parent
"""Holds `conf/` and `experiments/`: the repository, or the package itself once it is installed from a wheel."""
CONFIG_DIR = PROJECT_ROOT / "conf"
EXPERIMENTS_DIR = PROJECT_ROOT / "experiments"


def absolute(path: str) -> Path:
    """The absolute path, `~` expanded."""
    return expanded(path).absolute()
