"""What of a command line Hydra never sees."""

from __future__ import annotations

import re

import pytest

from pipeline.cli.command import _check_arguments
from pipeline.common.errors import ConfigError

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
        _check_arguments(["head=average_pool", argument])


def test_a_long_value_is_looked_at_in_an_instant() -> None:
    """A search for an address that begins anew at each letter would take a minute."""
    _check_arguments([f"head={'x' * LONG}", "seed=" + ",".join(map(str, range(10_000)))])
