"""Commands that are killed at random steps, and given again: nothing is lost, and nothing is there twice."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.program.kills import kill, scenarios


@pytest.mark.slow
@pytest.mark.parametrize(("name", "kills"), [("train", 3), ("search", 1), ("compare", 2), ("convert", 1), ("sync", 2)])
def test_a_killed_command_ends_like_an_undisturbed_one_when_it_is_given_again(
    name: str, kills: int, tmp_path: Path
) -> None:
    with scenarios(name, tmp_path) as (scenario,):
        kill(scenario, kills, tmp_path, random.Random(0))
