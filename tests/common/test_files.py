"""Paths as they are typed."""

from __future__ import annotations

from pathlib import Path

from pipeline.common.files import expanded


def test_the_home_of_a_user_who_is_not_there_stays_as_it_was_typed() -> None:
    assert expanded("~nobody-of-this-name/my.keras") == Path("~nobody-of-this-name/my.keras")
    assert expanded("~/my.keras") == Path.home() / "my.keras"
