"""What `--help` says: every option that there is a file for, and a sentence about every setting."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from pipeline.config import CONFIG_DIR, GROUPS
from pipeline.config.help import options, sentences, settings
from pipeline.config.paths import EXPERIMENTS_DIR
from pipeline.config.schema import CompareConfig, Config, ConvertConfig, DashboardConfig, ProbeConfig, SyncConfig
from pipeline.heads.average import AveragePool
from tests.conftest import composed, run_program


def test_a_group_lists_its_files_and_what_an_option_needs() -> None:
    assert options("tracking") == "local | server"
    assert {"image_folder (with dataset.path=…)", "mnist", "tfds (with dataset.name=…)"} <= {
        *options("dataset").split(" | ")
    }
    for group in GROUPS:
        files = [path.stem for place in (CONFIG_DIR, EXPERIMENTS_DIR) for path in (place / group).glob("*.yaml")]
        # On several lines, if need be.
        assert re.split(r" \|\s+", re.sub(r" \(with [^)]*\)", "", options(group))) == sorted(files)


def test_sentences_are_the_first_of_the_docstrings_also_of_bases() -> None:
    found = sentences(AveragePool)
    assert found["pool_size"] == "`full` for the whole map at the training size, or [rows, columns]"
    assert found["dropout"] == "Share of the inputs of each Dense layer that training drops"
    assert sentences(None) == sentences(int) == {}


@pytest.mark.parametrize("schema", [Config, CompareConfig, ConvertConfig, DashboardConfig, ProbeConfig, SyncConfig])
def test_every_setting_of_every_command_has_its_sentence(schema: type) -> None:
    def without(node: object, prefix: str = "") -> list[str]:
        config = OmegaConf.structured(node)
        about = sentences(OmegaConf.get_type(config))
        found = []
        for key in config:
            group = not OmegaConf.is_missing(config, key) and OmegaConf.is_config(config[key])
            if group and OmegaConf.is_dict(config[key]):
                found += without(config[key], f"{prefix}{key}.")
            elif not about.get(str(key)):
                found.append(f"{prefix}{key}")
        return found

    assert without(schema) == []


@pytest.mark.parametrize(
    "overrides",
    [
        [f"{group}={path.stem}"]
        for group in ("head", "backbone", "dataset")
        for path in sorted((CONFIG_DIR / group).glob("*.yaml"))
    ],
    ids=lambda overrides: overrides[0],
)
@pytest.mark.long
def test_every_option_says_a_sentence_about_each_of_its_settings(overrides: list[str]) -> None:
    lines = settings(composed(*overrides)).splitlines()
    group = overrides[0].partition("=")[0]
    at = lines.index(f"{group}:")
    own = [line for line in lines[at + 1 :] if line.startswith("  ")]
    for index, line in enumerate(own):
        if re.match(r"  \w+:", line):
            assert "# " in line or own[index + 1].strip().startswith("# "), line


@pytest.mark.program
def test_help_is_made_of_both_and_answers_without_tensorflow(tmp_path: Path) -> None:
    result = run_program("pipeline.train", "--help", "head=average_pool", "training.epochs=7", cwd=tmp_path)
    assert result.returncode == 0
    text = result.stdout
    for group in GROUPS:
        assert options(group) in text, group
    assert re.search(r"^  epochs: 7 +# Passes over the training images$", text, re.MULTILINE)
    assert re.search(r"^  pool_size: full +# `full` for the whole map", text, re.MULTILINE)
    assert re.search(r"^  sizes: null +# Heights in pixels, to one of which each step", text, re.MULTILINE)
    assert max(map(len, text.splitlines())) <= 160
    assert "hydra:" not in text


@pytest.mark.program
@pytest.mark.parametrize("command", ["compare", "convert", "probe", "dashboard", "sync", "plan"])
def test_other_commands_have_their_help_too(command: str, tmp_path: Path) -> None:
    result = run_program(f"pipeline.{command}", "--help", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert f"python -m pipeline.{command}" in result.stdout
    if command != "plan":
        assert re.search(r"^output_dir: outputs +# ", result.stdout, re.MULTILINE)
