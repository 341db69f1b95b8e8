"""What the recorded text of a param stands for."""

from __future__ import annotations

from typing import Any

import yaml


def param_value(text: str) -> Any:
    """The value that was set: its text is what Python prints, which is YAML; the text itself where it is none."""
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError):  # ValueError for dates that are none, as 2026-13-01.
        return text
