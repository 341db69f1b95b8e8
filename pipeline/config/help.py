"""What `--help` says of groups and settings, made from what is there: the files of options and the docstrings."""

from __future__ import annotations

import dataclasses
import inspect
import re
import textwrap
from collections.abc import Iterator
from typing import Any

import yaml
from omegaconf import DictConfig, ListConfig, OmegaConf

from pipeline.config.paths import CONFIG_DIR, EXPERIMENTS_DIR

COMMENT_COLUMN = 44
"""Where the sentences about settings begin."""
OPTIONS_COLUMN = 14
"""Where the options of a group begin."""
WIDTH = 118


def options(group: str) -> str:
    """The options of a group, as `--help` lists them: by name, and with what has to be given beside them; on as many
    lines as it takes, below each other."""
    files = [path for place in (CONFIG_DIR, EXPERIMENTS_DIR) for path in (place / group).glob("*.yaml")]
    lines: list[str] = []
    for path in sorted(files):
        option = _option_text(group, path.stem, path.read_text())
        if lines and len(lines[-1]) + len(option) < WIDTH - OPTIONS_COLUMN:
            lines[-1] += f" | {option}"
        else:
            lines.append(option)
    return f" |\n{' ' * OPTIONS_COLUMN}".join(lines)


def _option_text(group: str, option: str, text: str) -> str:
    needed = [f"{group}.{name}=…" for name, value in (yaml.safe_load(text) or {}).items() if value == "???"]
    return f"{option} (with {' '.join(needed)})" if needed else option


def settings(config: DictConfig) -> str:
    """Every setting of a composed configuration with its value, and a sentence about it."""
    # What it becomes part of is a template, to which a dollar sign is something special.
    return "\n".join(_lines(config, "")).replace("$", "$$")


def _lines(config: DictConfig, indent: str) -> Iterator[str]:
    about = sentences(OmegaConf.get_type(config))
    for name, value in config.items_ex(resolve=False):
        key = str(name)
        if key == "hydra":
            continue
        if isinstance(value, DictConfig) and config[key] is not None:
            # What the groups are, the help says before.
            yield from _commented(f"{indent}{key}:", about.get(key, "") if indent else "")
            yield from _lines(value, f"{indent}  ")
            continue
        yield from _commented(f"{indent}{key}: {_typed_value(config, key, value)}", about.get(key, ""))


def _commented(setting: str, sentence: str) -> Iterator[str]:
    """A setting with its sentence beside it, on as many lines as it takes."""
    wrapped = textwrap.wrap(sentence, WIDTH - COMMENT_COLUMN)
    if len(setting) >= COMMENT_COLUMN - 1:
        yield setting
        setting = ""
    for line in wrapped or [""]:
        yield f"{setting:<{COMMENT_COLUMN - 1}} {f'# {line}' if line else ''}".rstrip()
        setting = ""


def _typed_value(config: DictConfig, key: str, value: Any) -> str:
    """A value as it is typed on the command line."""
    if OmegaConf.is_missing(config, key):
        return "???"
    if isinstance(value, DictConfig):
        return "null"  # A group of which nothing was chosen.
    if isinstance(value, ListConfig):
        value = OmegaConf.to_container(value, resolve=False)
    value = getattr(value, "name", value)
    return yaml.safe_dump(value, default_flow_style=True, width=10_000).removesuffix("\n...\n").strip()


def sentences(schema: type | None) -> dict[str, str]:
    """The first sentence about each attribute that the docstrings of a dataclass and its bases name."""
    if schema is None or not dataclasses.is_dataclass(schema):
        return {}
    found: dict[str, str] = {}
    for base in reversed(schema.__mro__):
        _, _, attributes = inspect.cleandoc(vars(base).get("__doc__") or "").partition("Attributes:\n")
        for name, text in re.findall(r"^    (\w+): (.+(?:\n     +.+)*)", attributes, re.MULTILINE):
            sentence = re.match(r".+?(?:\.(?=\s)|$)", " ".join(text.split()))
            found[name] = sentence[0].rstrip(".;") if sentence else ""
    return found
