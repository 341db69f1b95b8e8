"""The rule of the house: a room imports only rooms above it, wherever the import stands.

Read by `ast`, so that imports inside functions and under TYPE_CHECKING count too.
"""

from __future__ import annotations

import ast
import graphlib
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT

PACKAGE = ROOT / "pipeline"
COMMANDS = {"train", "plan", "compare", "convert", "probe", "dashboard", "sync"}
ALLOWED: dict[str, set[str]] = {
    "common": set(),
    "heads": {"common"},
    "data": {"common"},
    "models": {"common", "heads", "data"},
    "other_sizes": {"common", "heads", "data", "models"},
    "training": {"common", "data", "models"},
    # It works on a table: it knows neither MLflow nor TensorFlow.
    "comparison": {"common", "heads"},
    "tracking": {"common", "heads", "data", "models", "other_sizes", "training", "comparison"},
    "config": {"common", "heads", "data", "models", "other_sizes", "training", "comparison", "tracking"},
    "cli": {"common", "config", "tracking"},
    "study": {"common", "data", "other_sizes", "comparison", "tracking", "config", "cli"},
    "run": {"common", "data", "models", "other_sizes", "training", "tracking", "config"},
    **{command: {"common", "data", "other_sizes", "tracking", "config", "cli", "study", "run"} for command in COMMANDS},
}
"""The rooms in their order, and which each may import."""
HEAVY = ("keras", "tensorflow", "tensorflow_datasets", "mlflow", "pandas", "matplotlib", "scipy", "sklearn")


def _module(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {_module(path): ast.parse(path.read_text()) for path in sorted(PACKAGE.rglob("*.py"))}


def _imported(node: ast.AST) -> Iterator[str]:
    """The modules of the program that one import names."""
    if isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom) and node.module:
        # What is imported from a package may be one of its modules.
        names = [f"{node.module}.{alias.name}" for alias in node.names]
    else:
        return
    for name in names:
        while name.startswith("pipeline") and name not in MODULES:
            name = name.rpartition(".")[0]
        if name in MODULES:
            yield name


def _room(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def _at_load(module: ast.Module) -> Iterator[ast.AST]:
    """The imports that happen when a module is loaded."""
    for node in module.body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node


@pytest.mark.parametrize("module", [name for name in MODULES if _room(name)])
def test_a_room_imports_only_rooms_above_it(module: str) -> None:
    room = _room(module)
    found = {_room(name) for node in ast.walk(MODULES[module]) for name in _imported(node)} - {"", room}
    assert found <= ALLOWED[room], f"{module} imports {sorted(found - ALLOWED[room])}"


def test_rooms_stand_in_one_order() -> None:
    assert list(ALLOWED) == list(graphlib.TopologicalSorter(ALLOWED).static_order()) or all(
        list(ALLOWED).index(room) < list(ALLOWED).index(below) for below, rooms in ALLOWED.items() for room in rooms
    )
    assert {_room(name) for name in MODULES} - {""} == set(ALLOWED)


@pytest.mark.parametrize("kind", ["at load", "anywhere"])
def test_no_modules_import_each_other_in_a_circle(kind: str) -> None:
    graph: dict[str, set[str]] = defaultdict(set)
    for name, tree in MODULES.items():
        for node in _at_load(tree) if kind == "at load" else ast.walk(tree):
            # A package's own file gathers its modules, which may name the package of another room.
            graph[name] |= {other for other in _imported(node) if other != name}
    graphlib.TopologicalSorter(graph).prepare()


def test_settings_and_commands_load_no_library_that_works() -> None:
    """So a mistake is told in half a second, and --help answers."""
    modules = ", ".join(f"pipeline.{name}" for name in ("config", *sorted(COMMANDS)))
    code = f"import sys, {modules}; print(*(name for name in sys.argv[1:] if name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code, *HEAVY], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout.split()) == (0, []), done.stderr


@pytest.mark.program
def test_what_shows_results_does_not_load_tensorflow() -> None:
    modules = ("study.conclude", "study.sync", "study.gather", "tracking.server.serve", "tracking.overview")
    imports = ", ".join(f"pipeline.{module}" for module in modules)
    code = f"import sys, {imports}; print('tensorflow' in sys.modules, 'keras' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout.split()) == (0, ["False", "False"]), done.stderr


@pytest.mark.program
def test_comparison_knows_neither_mlflow_nor_tensorflow() -> None:
    code = (
        "import sys, pipeline.comparison.report.files, pipeline.comparison.report.terminal; "
        "print(*(name for name in ('mlflow', 'tensorflow', 'keras') if name in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout.split()) == (0, []), done.stderr


def test_the_program_says_no_name_of_an_option_but_in_its_own_file() -> None:
    """No room knows a head, a backbone or a way by name; examples in docstrings and in messages are allowed."""
    from pipeline.heads import HEADS
    from pipeline.models.backbones import BACKBONES
    from pipeline.other_sizes.ways import WAYS

    names = {head.name for head in HEADS} | {backbone.name for backbone in BACKBONES} | {way.name for way in WAYS}
    homes = {type(way).__module__ for way in WAYS} | {option.__module__ for option in (*HEADS, *BACKBONES)}
    said = {
        (module, node.value)
        for module, tree in MODULES.items()
        if module not in homes
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and node.value in names
    }
    assert said == set()
