"""Studies and arms as Hydra reads them: data, which names no code to run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra.plugins.config_source import ConfigResult
from omegaconf import OmegaConf

from pipeline.errors import ConfigError

RUNS_CODE = ("_target_", "()")
"""Keys whose values Hydra, and Python's logging, take for something to call."""


class ExperimentFiles(FileConfigSource):
    """Files of studies and arms, at `experiments://PATH` in Hydra's search path.

    What somebody hands on as a study could otherwise call anything, as one of Hydra's callbacks.
    """

    @staticmethod
    def scheme() -> str:
        return "experiments"

    def load_config(self, config_path: str) -> ConfigResult:
        """Reads a file; raises `ConfigError` if it names code."""
        result = super().load_config(config_path)
        for key in _keys(OmegaConf.to_container(result.config)):
            if key.rpartition(".")[2] in RUNS_CODE:
                group, _, option = config_path.removesuffix(".yaml").rpartition("/")
                raise ConfigError(
                    group or "file",
                    option,
                    f"{Path(self.path) / config_path} names code to run, under {key}, which is never run",
                    "Delete that from the file.",
                )
        return result


def _keys(node: Any, prefix: str = "") -> Iterator[str]:
    """Every key in nested dictionaries and lists, with those above it."""
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in items:
        yield f"{prefix}{key}"
        yield from _keys(value, f"{prefix}{key}.")
