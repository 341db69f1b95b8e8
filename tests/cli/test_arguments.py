"""What people are told to type is read as it was meant."""

from __future__ import annotations

import shlex

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from pipeline.cli.arguments import to_type
from tests.conftest import composed


def _read_back(text: str) -> str:
    """What the program gets of a directory's name, from the shell through Hydra and OmegaConf."""
    *program, setting = shlex.split(to_type("pipeline.train", output_dir=text))
    assert program == ["python", "-m", "pipeline.train"]
    return str(OmegaConf.create({"output_dir": OverridesParser.create().parse_override(setting).value()}).output_dir)


@pytest.mark.parametrize(
    "text",
    [
        *("/data/heads", "a b", "a=b", "a,b", "[a]", "{a: 1}", "it's", "'", "\\", "a\\", "\\'", '"', "a\nb", "#", "é☃"),
        *("null", "true", "1e3", "0", "NaN", "${seed}", "$", "~", "*", " a ", "x(y)", "postgresql:///m?host=/s&a=b"),
    ],
)
def test_a_text_is_read_as_it_is(text: str) -> None:
    assert _read_back(text) == text


@settings(max_examples=25, derandomize=True, deadline=None)
@given(st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=8))
def test_any_text_is_read_as_it_is(text: str) -> None:
    assert _read_back(text) == text


def test_an_odd_address_is_composed_as_it_is() -> None:
    address = "postgresql:///mlflow?host=/run/postgresql&sslmode=disable"
    setting = shlex.split(to_type("pipeline.train", tracking__uri=address))[-1]
    assert setting == f"tracking.uri='{address}'"
    assert composed(setting).tracking.uri == address


def test_a_command_has_no_more_quotes_than_it_needs() -> None:
    assert (
        to_type(
            "pipeline.convert",
            model="models:/birds/1",
            way=None,
            image_size=[8, 8],
            tracking__uri="http://127.0.0.1:5000",
        )
        == "python -m pipeline.convert model=models:/birds/1 'image_size=[8,8]' tracking.uri=http://127.0.0.1:5000"
    )
