"""The options of a group, found by where their files are: adding one is adding a file."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from types import ModuleType
from typing import TypeVar

Option = TypeVar("Option")


def options_in(package: ModuleType, base: type[Option]) -> tuple[type[Option], ...]:
    """The classes below `base` in the modules of a package that have a `name` of their own and leave nothing abstract.

    Args:
        package: Its modules are imported; those of packages inside it are not.
        base: Of the options.

    Returns:
        In the order of the modules' names, and within a module of its lines.
    """
    found: list[type[Option]] = []
    for file in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
        module = importlib.import_module(file.name)
        found += [
            option
            for option in vars(module).values()
            if isinstance(option, type)
            and issubclass(option, base)
            and option.__module__ == module.__name__
            and "name" in vars(option)
            and not inspect.isabstract(option)
        ]
    return tuple(found)
