"""What all settings share: they know their names on the command line, and check themselves."""

from __future__ import annotations

import re
from enum import Enum
from typing import ClassVar

from pipeline.common.errors import ConfigError, printable

LIMIT = 2**31
"""Above every number of images, pixels or units: libraries below hold such numbers in 32 bits."""
MAX_SIDE = 65_535
"""Of an image in pixels, as in JPEG."""
MAX_NAME = 200
"""Bytes of a name. File systems hold 255 in one, and MLflow 250 in the key of a tag; both are made of more than it."""
PLAIN_NAME = f"must be a name of at most {MAX_NAME} bytes, without slashes and quotes"


class Settings:
    """Base of the settings, each a dataclass that refuses in `__post_init__` what cannot work.

    Attributes:
        group: Name of the settings on the command line, as in `GROUP.SETTING=VALUE`; empty for those without a group.
    """

    group: ClassVar[str] = ""

    def key(self, name: str) -> str:
        """A setting as it is typed: `training.epochs` for `epochs`."""
        return f"{self.group}.{name}" if self.group else name

    def error(self, name: str, rule: str, remedy: str = "", example: str | int | float | None = None) -> ConfigError:
        """What is wrong with a setting of these.

        Args:
            name: Of the setting.
            rule: What its value must satisfy, or why it cannot work.
            remedy: What to type instead.
            example: In place of a remedy: a value that works.
        """
        value = getattr(self, name)
        shown = value.value if isinstance(value, Enum) else value
        return ConfigError(self.key(name), shown, rule, remedy or f"Use for example {self.key(name)}={example}.")

    def require(
        self, name: str, holds: bool, rule: str, remedy: str = "", example: str | int | float | None = None
    ) -> None:
        """Raises `ConfigError` about a setting of these unless `holds`; for the arguments see `error`."""
        if not holds:
            raise self.error(name, rule, remedy, example)

    def require_at_least(self, name: str, minimum: int, example: int) -> None:
        """Raises `ConfigError` unless a setting is at least `minimum`, and not more than 32 bits hold."""
        value = getattr(self, name)
        rule = f"must be at least {minimum}" if value < minimum else "must be less than 2³¹"
        self.require(name, minimum <= value < LIMIT, rule, example=example)

    def require_image_size(self, name: str, example: str) -> None:
        """Raises `ConfigError` unless a setting is null or the height and width of an image in pixels."""
        value = getattr(self, name)
        self.require(
            name,
            value is None or (len(value) == 2 and all(map(is_side, value))),
            "must be null or [height, width], each from 1 to 65,535 px",
            example=example,
        )

    def require_plain_name(self, name: str) -> None:
        """Raises `ConfigError` if a setting, a name or null, could be taken for more in a path or in a query."""
        value = getattr(self, name)
        self.require(name, value is None or is_plain_name(value), PLAIN_NAME, example="heads")

    def require_short(self, name: str, example: str) -> None:
        """Raises `ConfigError` if a setting, a name or null, is longer than what it is recorded under may be."""
        value = getattr(self, name)
        self.require(
            name, value is None or is_short(value), f"must be a name of at most {MAX_NAME} bytes", example=example
        )

    def require_own_name(self) -> None:
        """Raises `ConfigError` if the `name` of a group's option was changed: results would carry a wrong label."""
        own, name = type(self).__dataclass_fields__["name"].default, self.name  # type: ignore[attr-defined]
        self.require(
            "name", name == own, f"is fixed to {own}", f"Choose another {self.group} with {self.group}={name}."
        )


def is_count(value: int) -> bool:
    """Whether there can be so many of something: at least 1, and not more than 32 bits hold."""
    return 1 <= value < LIMIT


def is_side(value: int) -> bool:
    """Whether an image can be so high or wide, in pixels."""
    return 1 <= value <= MAX_SIDE


def is_plain_name(value: str) -> bool:
    """Whether a text is a name and nothing else, in a path and in a query."""
    return re.fullmatch(r"(?!\.{1,2}$)[^/\\'\"`]+", value) is not None and printable(value) == value and is_short(value)


def is_short(value: str) -> bool:
    """Whether a text is short enough for a name."""
    return len(value.encode(errors="surrogateescape")) <= MAX_NAME
