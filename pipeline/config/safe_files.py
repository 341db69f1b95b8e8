"""Studies and arms as Hydra reads them: data, which names no code to run."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra.plugins.config_source import ConfigResult
from omegaconf import OmegaConf

from pipeline.common.errors import ConfigError

RUNS_CODE = ("_target_", "()")
"""Keys whose values Hydra, and Python's logging, take for something to call."""
REFERENCE = r"\$\{[\w.]+\}"
"""To another setting. Other interpolations call functions, which can make any of the above, or read the environment."""
OF_HYDRA = r"hydra(\.mode|\.sweeper(\.params(\.(?!hydra\b)[a-zA-Z_][\w./]*)?)?)?"
"""Hydra's own settings that say what is run. What is swept are the program's settings and groups."""


class ExperimentFiles(FileConfigSource):
    """Files of studies and arms, at `experiments://PATH` in Hydra's search path.

    What somebody hands on as a study could otherwise call anything, as one of Hydra's callbacks, or write anywhere, as
    one of its log files. So of Hydra's own settings they have only those that say what is run.
    """

    @staticmethod
    def scheme() -> str:
        return "experiments"

    def load_config(self, config_path: str) -> ConfigResult:
        """Reads a file; raises `ConfigError` if it holds more than a study needs."""
        result = super().load_config(config_path)
        for what in _more_than_data(OmegaConf.to_container(result.config), result.header):
            group, _, option = config_path.removesuffix(".yaml").rpartition("/")
            raise ConfigError(
                group or "file",
                option,
                f"{Path(self.path) / config_path} holds {what}, but studies and arms are data, which run no code",
                "Delete that from the file. Of Hydra's own settings it may have hydra.mode and hydra.sweeper.params.",
            )
        return result


def _more_than_data(content: Any, header: dict[str, str | None]) -> Iterator[str]:
    """What a study or an arm has no use for, as its key or value."""
    if header.get("package") not in (None, "_global_"):
        yield f"@package {header['package']}"
    for key, value in _entries(content):
        if key.rpartition(".")[2] in RUNS_CODE or (re.match(r"hydra\b", key) and not re.fullmatch(OF_HYDRA, key)):
            yield key
        in_package = key.startswith("defaults.") and "@" in f"{key}{value}"
        if in_package or (isinstance(value, str) and "${" in re.sub(REFERENCE, "", value)):
            yield f"{key}: {value}"


def _entries(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Everything in nested dictionaries and lists, under its dotted key."""
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for name, value in items:
        yield f"{prefix}{name}", value
        yield from _entries(value, f"{prefix}{name}.")
