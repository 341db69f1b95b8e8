"""Mistakes that the user can mend: shown as one message, without a stack trace."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from typing import Any

MAX_NAMED = 10
"""Files or classes named in a message that is about many."""
MAX_SHOWN = 500
"""Characters that are shown of a value: more than a path usually has."""
NOT_PRINTABLE = re.compile("[\0-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
"""Control characters, ends of lines, and what stands for bytes that are not UTF-8 in names of files."""


class UserError(Exception):
    """Something outside the program has to change; the message says what and how."""


class ConfigError(UserError):
    """A setting holds a value that cannot work.

    Args:
        key: Dotted name of the setting, as typed on the command line.
        value: The value received.
        rule: What a value must satisfy.
        remedy: What to type instead.
    """

    def __init__(self, key: str, value: Any, rule: str, remedy: str) -> None:
        typed = str(value).lower() if isinstance(value, bool) else str(value)  # As in YAML and on the command line.
        super().__init__(f"{excerpt(key)}={excerpt(typed)}: {rule}. {remedy}")
        self.key, self.rule = key, rule


def require(holds: bool, key: str, value: Any, rule: str, remedy: str) -> None:
    """Raises `ConfigError` unless `holds`."""
    if not holds:
        raise ConfigError(key, value, rule, remedy)


def suggestion(received: str, known: Iterable[str]) -> str:
    """`Did you mean …?` with the nearest of the known names, also by its initials, or an empty string."""
    names = list(known)
    near = [name for name in names if received == initials(name)] or difflib.get_close_matches(received, names, n=1)
    return f"Did you mean {near[0]}?" if near else ""


def initials(name: str) -> str:
    """`gap` for `global_average_pool`, `lr` for `training.learning_rate`; of a single word, nothing."""
    words = name.rpartition(".")[2].split("_")
    return "".join(word[:1] for word in words) if len(words) > 1 else ""


def the_first_of(names: Sequence[str]) -> str:
    """`a, b, c and 4 more`: no more names than a message has room for."""
    more = f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
    return ", ".join(names[:MAX_NAMED]) + more


def printable(text: str) -> str:
    """A text from outside on one line, which can be written anywhere: ends of lines and the like are escaped."""
    return NOT_PRINTABLE.sub(lambda match: match.group().encode("unicode_escape").decode(), text)


def excerpt(text: str) -> str:
    """As much of a text from outside, on one line, as a message has room for."""
    rest = f"… ({len(text):,} characters)" if len(text) > MAX_SHOWN else ""
    return printable(text[:MAX_SHOWN]) + rest


def first_line(error: BaseException) -> str:
    """The cause that an error of a library names, without the rest that it adds; its class if it names none."""
    # Keras puts the cause in bold, below its own heading, and TensorFlow opens with the node in braces.
    bold = re.search(r"\x1b\[1m(?:\{\{.*?\}\} )?(.+?)(?:\x1b|$)", str(error), re.MULTILINE)
    lines = bold.groups() if bold else str(error).splitlines()
    # Behind the cause, TensorFlow names its own operation.
    return excerpt(next(iter(lines), type(error).__name__).partition(" [Op:")[0].rstrip(".:"))


def class_and_first_line(error: BaseException) -> str:
    """`ValueError: what it says first`, for errors whose texts say little without their class."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {excerpt(lines[0]) if lines else 'no message'}"
