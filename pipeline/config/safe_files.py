"""Studies and arms as Hydra reads them: data, which names no code to run, and no place to send results to."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from hydra._internal.config_repository import ConfigRepository
from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra.plugins.config_source import ConfigResult
from omegaconf import OmegaConf

from pipeline.common.errors import ConfigError, require
from pipeline.common.settings import is_plain_name, is_short

RUNS_CODE = ("_target_", "()")
"""Keys whose values Hydra, and Python's logging, take for something to call."""
REFERENCE = r"\$\{[\w.]+\}"
"""To another setting. Other interpolations call functions, which can make any of the above, or read the environment."""
OF_HYDRA = r"hydra(\.mode|\.sweeper(\.params(\.(?!hydra\b)[a-zA-Z_][\w./]*)?)?)?"
"""Hydra's own settings that say what is run. What is swept are the program's settings and groups."""
CHOICE = r"(override )?/(dataset|backbone|head|training|size_probe|launch|arm)"
"""Entries of a file's list of defaults: which option of a group it starts from."""
PLACE = r"(hydra\.sweeper\.params\.)?(tracking|tracking\.uri|output_dir)"
"""Settings that say where results go, and with them the password of a server."""
NO_CODE = "studies and arms are data, which run no code"
NO_PLACE = "a study or an arm cannot say where results and passwords go"


class ExperimentFiles(FileConfigSource):
    """Files of studies and arms, at `experiments://PATH` in Hydra's search path.

    What somebody hands on as a study could otherwise call anything, as one of Hydra's callbacks, or write anywhere, as
    one of its log files. So of Hydra's own settings they have only those that say what is run, they start from options
    of the program's groups alone, and no other file beside them is ever read.
    """

    @staticmethod
    def scheme() -> str:
        return "experiments"

    def is_config(self, config_path: str) -> bool:
        """Whether it is a study or an arm, and there."""
        group, _, option = config_path.removesuffix(".yaml").partition("/")
        return group in ("study", "arm") and is_plain_name(option) and super().is_config(config_path)

    def load_config(self, config_path: str) -> ConfigResult:
        """Reads a file; raises `ConfigError` if it holds more than a study needs."""
        result = super().load_config(config_path)
        for what, rule in _more_than_data(OmegaConf.to_container(result.config), result.header):
            group, _, option = config_path.removesuffix(".yaml").rpartition("/")
            raise ConfigError(
                group or "file",
                option,
                f"{Path(self.path) / config_path} holds {what}, but {rule}",
                "Delete that from the file. Of Hydra's own settings it may have hydra.mode and hydra.sweeper.params."
                if rule == NO_CODE
                else "Delete that from the file, and give it on the command line.",
            )
        return result


def refuse_paths_that_lead_out() -> None:
    """Makes Hydra refuse an option that is a path out of its group's folder.

    Such a file would be read as one of the program's own, without a look at what it holds. Calling it again changes
    nothing.
    """
    load_config = ConfigRepository.load_config
    if load_config.__module__ == __name__:
        return

    def load_option(repository: ConfigRepository, config_path: str) -> ConfigResult | None:
        path = PurePosixPath(config_path)
        if ".." in path.parts or path.is_absolute():
            raise ConfigError(
                path.parts[0],
                str(PurePosixPath(*path.parts[1:])),
                "an option is the name of a file in the folder of its group, not a path",
                "Put the file there, and use its name.",
            )
        require(is_short(path.name), str(path.parent), path.name, "there is no such option", "Use a shorter name.")
        return load_config(repository, config_path)

    ConfigRepository.load_config = load_option  # type: ignore[method-assign, assignment]


def _more_than_data(content: Any, header: dict[str, str | None]) -> Iterator[tuple[str, str]]:
    """What a study or an arm has no use for, as its key or value, and the rule against it."""
    if header.get("package") not in (None, "_global_"):
        yield f"@package {header['package']}", NO_CODE
    for entry in content.get("defaults") or () if isinstance(content, dict) else ():
        if not _is_choice(entry):
            yield f"defaults: {entry}", NO_CODE
    for key, value in _entries(content):
        if key.rpartition(".")[2] in RUNS_CODE or (re.match(r"hydra\b", key) and not re.fullmatch(OF_HYDRA, key)):
            yield key, NO_CODE
        if isinstance(value, str) and "${" in re.sub(REFERENCE, "", value):
            yield f"{key}: {value}", NO_CODE
        if re.fullmatch(PLACE, key) and not isinstance(value, dict):
            yield f"{key}: {value}", NO_PLACE


def _is_choice(entry: Any) -> bool:
    """Whether an entry of a list of defaults chooses an option of one of the program's groups, or is the file."""
    if not isinstance(entry, dict):
        return entry == "_self_"
    return all(
        re.fullmatch(CHOICE, str(group)) and isinstance(option, str) and is_plain_name(option)
        for group, option in entry.items()
    )


def _entries(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Everything in nested dictionaries and lists, under its dotted key."""
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for name, value in items:
        yield f"{prefix}{name}", value
        yield from _entries(value, f"{prefix}{name}.")
