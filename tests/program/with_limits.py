"""A command of the program with other limits than those that it has for its users.

python -m tests.program.with_limits pipeline.tracking.server.talk.HEALTH_SECONDS=1800 pipeline.train seed=1
"""

from __future__ import annotations

import importlib
import runpy
import sys


def main() -> None:
    """Sets constants of modules, and then runs the first argument that is a module's name as `python -m` does."""
    arguments = sys.argv[1:]
    while "=" in arguments[0]:
        name, _, value = arguments.pop(0).partition("=")
        module_name, _, constant = name.rpartition(".")
        module = importlib.import_module(module_name)
        assert isinstance(getattr(module, constant), float), name
        setattr(module, constant, float(value))
    sys.argv[1:] = arguments[1:]
    runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
