"""What was typed, checked and put in order before Hydra sees it; and what is to be typed, as Hydra will read it."""

from __future__ import annotations

import re
import shlex
from contextlib import suppress
from typing import NoReturn

from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from pipeline.common.errors import UserError, excerpt, require
from pipeline.common.settings import is_short
from pipeline.tracking.settings import Tracking

HELP = "python -m pipeline.train --help shows them."


def checked_arguments(arguments: list[str]) -> list[str]:
    """The arguments with Hydra's flags before the settings, between which it would not look for any.

    Raises:
        UserError: A flag is none of Hydra's, or there is something that Hydra must not see: it would print and write an
            address that holds a user, and look for a file that is named like a setting.
    """
    for argument in arguments:
        key, _, value = argument.partition("=")
        require(is_short(key), key, value, "there is no such setting", HELP)
        if address := re.search(r"\b\w+://[^\s/@]*@[\w.:-]*", argument):
            Tracking(uri=address.group())
    parser = get_args_parser()
    parser.error = _refuse  # type: ignore[method-assign]
    known, unknown = parser.parse_known_intermixed_args(arguments)
    if unknown:
        at = arguments.index(unknown[0])
        name, _, value = unknown[0].partition("=")
        value = value or next(iter(arguments[at + 1 : at + 2]), "VALUE")
        setting = f"{excerpt(name.lstrip('-').replace('-', '_'))}={excerpt(value)}"
        raise UserError(f"{excerpt(name)}: there is no such flag. Settings have no dashes: {setting}. {HELP}")
    settings = list(known.overrides)
    return [argument for argument in arguments if argument not in settings] + settings


def to_type(module: str, **settings: object) -> str:
    """The command `python -m MODULE KEY=VALUE …` in a form that a shell and Hydra read as it is meant.

    Args:
        module: To run.
        settings: Texts, paths, numbers and lists of numbers by key, `__` for a dot; what is None is left out.
    """
    given = {key.replace("__", "."): value for key, value in settings.items() if value is not None}
    return shlex.join(["python", "-m", module, *(_setting(key, value) for key, value in given.items())])


def _setting(key: str, value: object) -> str:
    """`KEY=VALUE`, with quotes where Hydra would take a text for something else."""
    if isinstance(value, list):
        return f"{key}=[{','.join(map(str, value))}]"
    text = str(value).replace("${", r"\${")  # No reference to another setting.
    with suppress(HydraException):
        if OverridesParser.create().parse_override(f"{key}={text}").value() == text:
            return f"{key}={text}"
    # Backslashes count as such, but in front of a quote.
    quoted = re.sub(r"(\\*)(?='|$)", r"\1\1", text).replace("'", "\\'")
    return f"{key}='{quoted}'"


def _refuse(message: str) -> NoReturn:
    raise UserError(f"{excerpt(message)}. {HELP}")
