"""From what Hydra composed to the typed object, checking every value on the way."""

from __future__ import annotations

import copy
import dataclasses
import typing
from collections.abc import Iterator
from typing import Any, TypeVar

from omegaconf import DictConfig, ListConfig, OmegaConf

from pipeline.common.errors import ConfigError, initials, printable, require, suggestion

T = TypeVar("T")
MAX_TEXT = 4096
"""Bytes of a text: as many as a path has at most, and less than MLflow records of a param."""
SEVERAL_LINES = ("question",)
"""Settings that may have ends of lines."""


def to_typed(config: DictConfig, schema: type[T]) -> T:
    """Turns what Hydra composed into the typed object of class `schema`, checking every value on the way.

    Raises:
        ConfigError: A value is out of range, missing, or under a name that does not exist.
    """
    for key in sorted(OmegaConf.missing_keys(config)):
        raise ConfigError(key, "???", "has no value", f"Give one, as in {key}=VALUE.")
    _refuse_unknown(config, "")
    resolved = copy.deepcopy(config)
    _check_types(resolved, "")
    typed = OmegaConf.to_object(resolved)
    assert isinstance(typed, schema)
    return typed


def _refuse_unknown(config: DictConfig, prefix: str) -> None:
    """Refuses what `+key=value` can add even to a typed configuration."""
    known = [field.name for field in dataclasses.fields(OmegaConf.get_type(config))]  # type: ignore[arg-type]
    for key, value in config.items_ex(resolve=False):
        name = prefix + str(key)
        if key not in known:
            raise unknown_key(name, value, known)
        if isinstance(value, DictConfig) and dataclasses.is_dataclass(OmegaConf.get_type(value)):
            _refuse_unknown(value, f"{name}.")


def _check_types(config: DictConfig, prefix: str) -> None:
    """Refuses what OmegaConf does not look for: lists in lists, references to values of another type, odd texts."""
    for key, value in config.items():
        name = prefix + str(key)
        if OmegaConf.is_interpolation(config, str(key)):
            config[key] = value  # Which OmegaConf does look at.
        if isinstance(value, DictConfig):
            _check_types(value, f"{name}.")
        elif isinstance(value, ListConfig) and not _holds_lists(OmegaConf.get_type(config), str(key)):
            require(
                not any(isinstance(item, ListConfig | DictConfig) for item in value),
                name,
                value,
                "must be a list of single values",
                f"Use for example {name}=[1,2].",
            )
        for text in value if isinstance(value, ListConfig) else [value]:
            if isinstance(text, str):
                _check_text(name, text)


def _check_text(name: str, text: str) -> None:
    """Refuses what cannot be a path, or cannot be written into databases and JSON, before anything is computed."""
    line = " ".join(text.split("\n")) if name in SEVERAL_LINES else text
    require(
        printable(line) == line,
        name,
        text,
        "must be UTF-8 without control characters",
        f"Use a text of one line: {name}=TEXT.",
    )
    require(
        len(line.encode()) <= MAX_TEXT,
        name,
        text,
        f"must have at most {MAX_TEXT:,} bytes",
        f"Use a shorter text: {name}=TEXT.",
    )


def _holds_lists(schema: type | None, name: str) -> bool:
    """Whether a setting is declared as a list of lists."""
    declared = typing.get_type_hints(schema)[name] if dataclasses.is_dataclass(schema) else None
    lists = [hint for hint in (declared, *typing.get_args(declared)) if typing.get_origin(hint) is list]
    return any(typing.get_origin(item) is list for hint in lists for item in typing.get_args(hint))


def unknown_key(key: str, value: Any, known: list[str], whole: DictConfig | None = None) -> ConfigError:
    """The error for a setting that does not exist, naming those that do.

    Args:
        key: As it was typed.
        value: Likewise.
        known: The settings that there are where it was looked for.
        whole: The configuration, in which the setting may be elsewhere.
    """
    parent, _, name = key.rpartition(".")
    near = suggestion(name, known)
    prefix = f"{parent}." if parent else ""
    remedy = near.replace("mean ", f"mean {prefix}") or _elsewhere(name, whole)
    return ConfigError(
        key,
        value,
        "there is no such setting",
        remedy or f"{parent or 'The top level'} has {', '.join(known)}.",
    )


def _elsewhere(name: str, whole: DictConfig | None) -> str:
    """`Did you mean …?` with the setting of that name, or of those initials, that is nearest to the top."""
    settings = sorted(_settings(whole, ""), key=lambda setting: setting.count(".")) if whole is not None else []
    same = [setting for setting in settings if name in (setting.rpartition(".")[2], initials(setting))]
    return f"Did you mean {same[0]}?" if same else ""


def _settings(config: DictConfig, prefix: str) -> Iterator[str]:
    """Dotted names of all settings but Hydra's own."""
    for key, value in config.items_ex(resolve=False):
        if isinstance(value, DictConfig) and value and prefix + str(key) != "hydra":
            yield from _settings(value, f"{prefix}{key!s}.")
        else:
            yield prefix + str(key)
