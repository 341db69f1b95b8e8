"""The documents: every link leads somewhere, every command line composes, the code on the first screen runs."""

from __future__ import annotations

import re
import shlex
import zipfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import keras
import numpy as np
import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from pipeline.config import CompareConfig, Config, ConvertConfig, DashboardConfig, ProbeConfig, SyncConfig, to_typed
from tests.config.test_config import PLUGINS
from tests.conftest import ROOT, composed

DOCUMENTS = sorted(
    path
    for path in ROOT.rglob("*.md")
    if not {".venv", "outputs", "node_modules", ".pytest_cache"} & set(path.relative_to(ROOT).parts)
)
SCHEMAS = {"train": Config, "plan": Config, "compare": CompareConfig, "convert": ConvertConfig, "sync": SyncConfig}
SCHEMAS |= {"dashboard": DashboardConfig, "probe": ProbeConfig}
COMMAND = re.compile(r"(?:python -m pipeline\.|fcn-heads-)(\w+)((?: .*)?)")
PLACEHOLDERS = {
    "DIR": ".",
    "FILE": "my.keras",
    "NAME": "mnist",
    "DATASET": "mnist",
    "PATH": "my.keras",
    "N": "3",
    "WAY": "resize_input",
    "STUDY": "heads",
}
"""What the documents write in capitals for what a reader puts there."""


def _fences_and_spans(text: str) -> Iterator[str]:
    """Lines of code blocks, and what is written as code in a sentence."""
    for block in re.findall(r"^```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        yield from block.splitlines()
    outside = re.sub(r"^```\w*\n.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    yield from re.findall(r"`([^`\n]+)`", outside)


def _command_lines(path: Path) -> Iterator[tuple[str, str]]:
    for line in _fences_and_spans(path.read_text()):
        for match in COMMAND.finditer(line):
            arguments = re.split(r"\s+#|\s&&|\s\||\s\\|\.{3}|…", match[2])[0].strip()
            if match[1] in SCHEMAS:
                yield match[1], arguments


LINES = sorted({(command, arguments) for path in DOCUMENTS for command, arguments in _command_lines(path)})


@pytest.fixture(autouse=True)
def in_a_directory_with_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    zipfile.ZipFile(tmp_path / "my.keras", "w").close()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000")
    monkeypatch.chdir(tmp_path)


def test_documents_and_command_lines_are_found() -> None:
    assert ROOT / "README.md" in DOCUMENTS
    assert len(LINES) > 40
    assert {command for command, _ in LINES} == set(SCHEMAS)


@pytest.mark.parametrize(("command", "arguments"), LINES, ids=[" ".join(line) for line in LINES])
def test_every_command_line_composes(command: str, arguments: str) -> None:
    typed = [_filled(word) for word in shlex.split(arguments) if not word.startswith("-")]
    for name, plugin in PLUGINS.items():
        if name.replace("/", "=") in typed and find_spec(f"hydra_plugins.{plugin}") is None:
            pytest.skip(f"needs the package of {name}")
    if command == "sync" and not any(word.startswith("tracking.uri=") for word in typed):
        typed.append("tracking.uri=http://127.0.0.1:5000")
    if command == "compare" and not any(word.startswith(("study=", "snapshot=")) for word in typed):
        typed.append("study=heads")
    if command == "probe" and not any(word.startswith(("images=", "dataset=")) for word in typed):
        typed.append("images=.")
    if command in ("convert", "probe") and not any(word.startswith("model=") for word in typed):
        typed.append("model=my.keras")
    parsed = [OverridesParser.create().parse_override(word) for word in typed]
    chosen = [
        next(iter(f"{override.get_key_element()}={value}" for value in override.sweep_string_iterator()))
        if override.is_sweep_override()
        else word
        for override, word in zip(parsed, typed, strict=True)
    ]
    to_typed(composed(*chosen, command=command), SCHEMAS[command])


def _filled(word: str) -> str:
    key, _, value = word.partition("=")
    for placeholder, instead in PLACEHOLDERS.items():
        value = re.sub(rf"(?<![\w.]){placeholder}(?![\w.])", instead, value)
    return f"{key}={value}"


def _anchors(path: Path) -> set[str]:
    """Of the headings of a document, as its viewers make them."""
    headings = re.findall(r"^#+ (.+)$", path.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_link_leads_somewhere(path: Path) -> None:
    text = re.sub(r"^```\w*\n.*?^```", "", path.read_text(), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith(("http://", "https://")):
            continue
        file, _, anchor = target.partition("#")
        there = (path.parent / file).resolve() if file else path
        assert there.exists(), target
        if anchor:
            assert anchor in _anchors(there if there.is_file() else there / "README.md"), target


def test_the_readme_is_short_and_its_tree_is_that_of_the_rooms() -> None:
    lines = (ROOT / "README.md").read_text().splitlines()
    assert len(lines) <= 130
    assert max(map(len, lines)) <= 130
    tree = {name for line in lines if line.startswith("  ") for name in re.findall(r"(\w+)/", line.partition("  ")[2])}
    rooms = {path.name for path in (ROOT / "pipeline").iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert rooms <= tree


def test_the_code_on_the_first_screen_does_what_it_says() -> None:
    text = (ROOT / "README.md").read_text()
    (block,) = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    lines = [line.partition("#") for line in block.splitlines()]
    assert [comment.split(":")[0].strip() for _, _, comment in lines] == ["(N, H, W, C)", "(8, 1, 1, 64)", "(8, 64)"]
    rng = np.random.default_rng(0)
    feature_map = rng.random((8, 7, 7, 64), np.float32)
    scope = {"keras": keras, "feature_map": feature_map}
    full, mean = (np.asarray(eval(code, scope)) for code, _, _ in lines[1:])
    assert (full.shape, mean.shape) == ((8, 1, 1, 64), (8, 64))
    np.testing.assert_allclose(full.reshape(8, 64), mean, rtol=1e-5)
    # What a map of 10×10 cells does to each: 7·7 of its 10·10 cells seen, all of them, 10·10·64 numbers for 7·7·64.
    larger = rng.random((8, 10, 10, 64), np.float32)
    full, mean = (np.asarray(eval(code, {**scope, "feature_map": larger})) for code, _, _ in lines[1:])
    np.testing.assert_allclose(full[:, 0, 0], larger[:, :7, :7].mean(axis=(1, 2)), rtol=1e-5)
    np.testing.assert_allclose(mean, larger.mean(axis=(1, 2)), rtol=1e-5)
    assert keras.layers.Flatten()(larger).shape == (8, 6400)
    assert 7 * 7 * 64 == 3136
    flattened = " ".join(text.split())
    for claim in (
        "top left 49 of the 100 cells",
        "Flatten gives 6,400 numbers where its Dense layer was trained on 3,136",
    ):
        assert claim in flattened
