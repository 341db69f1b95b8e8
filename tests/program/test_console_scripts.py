"""The console scripts: one a command, with Hydra's completion, which `python -m` does not have."""

from __future__ import annotations

import importlib
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.conftest import HANG_SECONDS, ROOT, program_environment

SCRIPTS: dict[str, str] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]


def _complete(line: str) -> list[str]:
    """What Tab offers at the end of a line, as the shell function asks that `-sc install=bash` defines."""
    script = Path(sys.executable).with_name(line.split()[0])
    done = subprocess.run(
        [str(script), "-sc", "query=bash"],
        env={**program_environment(), "COMP_LINE": line, "COMP_POINT": str(len(line))},
        capture_output=True,
        text=True,
        timeout=HANG_SECONDS,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_every_command_has_a_script_that_is_its_main() -> None:
    commands = {
        path.stem for path in (ROOT / "pipeline").glob("*.py") if 'if __name__ == "__main__"' in path.read_text()
    }
    assert {f"fcn-heads-{command}": f"pipeline.{command}:main" for command in commands} == SCRIPTS
    for target in SCRIPTS.values():
        module, _, function = target.partition(":")
        assert callable(getattr(importlib.import_module(module), function))


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("fcn-heads-train head=glo", ["head=global_average_pool", "head=global_max_pool"]),
        ("fcn-heads-train study=heads_b", ["study=heads_by_receptive_field", "study=heads_by_size"]),
        ("fcn-heads-train training.epo", ["training.epochs="]),
        ("fcn-heads-compare stat", ["statistics."]),
        ("fcn-heads-sync tracking=", ["tracking=local", "tracking=server"]),
    ],
)
def test_tab_completes_options_studies_and_settings(line: str, offered: list[str]) -> None:
    assert _complete(line) == offered


def test_the_shell_function_for_completion_is_printed() -> None:
    script = Path(sys.executable).with_name("fcn-heads-train")
    done = subprocess.run([str(script), "-sc", "install=bash"], capture_output=True, text=True, timeout=HANG_SECONDS)
    assert done.returncode == 0
    assert "complete -o nospace" in done.stdout
    assert "fcn-heads-train" in done.stdout
