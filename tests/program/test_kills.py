"""Commands that are killed at random steps, and given again: nothing is lost, and nothing is there twice."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.program.kills import kill, scenarios


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where all are killed, so that what comes before is done once."""
    return tmp_path_factory.mktemp("kills")


@pytest.mark.slow
@pytest.mark.parametrize(("name", "kills"), [("train", 2), ("search", 1), ("compare", 1), ("convert", 1), ("sync", 1)])
def test_a_killed_command_ends_like_an_undisturbed_one_when_it_is_given_again(
    name: str, kills: int, place: Path
) -> None:
    with scenarios(name, place) as (scenario,):
        kill(scenario, kills, place, random.Random(0))
