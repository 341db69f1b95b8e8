"""What of a command line Hydra never sees."""

from __future__ import annotations

import re

import pytest

from pipeline.cli.arguments import checked_arguments
from pipeline.common.errors import ConfigError, UserError

LONG = 100_000


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("tracking.uri=http://me:secret@host", "tracking.uri=http://***@host: must not hold a user or a password"),
        ("x" * LONG, f"{'x' * 500}… (100,000 characters)=: there is no such setting. python -m pipeline.train --help"),
        (f"{'x' * LONG}=1", f"{'x' * 500}… (100,000 characters)=1: there is no such setting."),
    ],
    ids=["password", "long", "long key"],
)
def test_some_arguments_are_refused_before_hydra_prints_and_writes_them(argument: str, message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        checked_arguments(["head=average_pool", argument])


def test_a_long_value_is_looked_at_in_an_instant() -> None:
    """A search for an address that begins anew at each letter would take a minute."""
    checked_arguments([f"head={'x' * LONG}", "seed=" + ",".join(map(str, range(10_000)))])


def test_flags_may_stand_anywhere() -> None:
    """Hydra alone would call what is behind `--multirun` unknown."""
    assert checked_arguments(["head=average_pool", "--multirun", "seed=0,1"]) == [
        *("--multirun", "head=average_pool", "seed=0,1")
    ]
    assert checked_arguments(["seed=1", "--cfg", "job"]) == ["--cfg", "job", "seed=1"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--epochs", "5"], "--epochs: there is no such flag. Settings have no dashes: epochs=5. python -m"),
        (["--batch-size=5"], "--batch-size: there is no such flag. Settings have no dashes: batch_size=5. python"),
        (["seed=0", "--fast"], "--fast: there is no such flag. Settings have no dashes: fast=VALUE. python -m"),
        (["--cfg", "jub"], "argument --cfg/-c: invalid choice: 'jub' (choose from 'job', 'hydra', 'all'). python"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_a_wrong_flag_is_told_in_one_message(arguments: list[str], message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        checked_arguments(arguments)
