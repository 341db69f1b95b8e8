"""Messages of settings: the setting as it is typed, the value, the rule, the remedy."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import ClassVar

import pytest

from pipeline.common.errors import ConfigError
from pipeline.common.settings import Settings, is_plain_name
from pipeline.common.size import TrainedSize, recorded_size


class Fruit(Enum):
    apple = "apple"


@dataclass
class Basket(Settings):
    group: ClassVar[str] = "basket"

    name: str = "basket"
    apples: int = 3
    sold: bool = True
    kind: Fruit = Fruit.apple


@dataclass
class Shop(Settings):
    study: str | None = None


def _message(action: object) -> str:
    with pytest.raises(ConfigError) as caught:
        action()  # type: ignore[operator]
    return str(caught.value)


def test_a_message_has_setting_value_rule_and_remedy() -> None:
    basket = Basket()
    basket.require("apples", True, "must be few")
    assert _message(lambda: basket.require("apples", False, "must be few", example=2)) == (
        "basket.apples=3: must be few. Use for example basket.apples=2."
    )
    assert _message(lambda: basket.require("kind", False, "is out", "Wait.")) == "basket.kind=apple: is out. Wait."
    assert _message(lambda: basket.require("sold", False, "is over", "Wait.")) == "basket.sold=true: is over. Wait."
    assert str(Shop(study="x").error("study", "is unknown", example="heads")) == (
        "study=x: is unknown. Use for example study=heads."
    )


def test_a_value_of_any_length_makes_one_line() -> None:
    message = str(Shop(study="a\n\0\udce4" * 1000).error("study", "is unknown", example="heads"))
    shown = r"a\n\x00\udce4" * 125
    assert message == f"study={shown}… (4,000 characters): is unknown. Use for example study=heads."


def test_counts_have_both_bounds() -> None:
    Basket(apples=2**31 - 1).require_at_least("apples", 1, 2)
    assert "must be at least 4." in _message(lambda: Basket().require_at_least("apples", 4, 5))
    assert "must be less than 2³¹." in _message(lambda: Basket(apples=2**31).require_at_least("apples", 1, 2))


def test_names_are_names_and_nothing_else() -> None:
    Shop().require_plain_name("study")
    assert is_plain_name("my study 2")
    assert is_plain_name("é" * 100)
    for name in ("", ".", "..", "a/b", "a\\b", "it's", 'a"b', "a`b", "a\0b", "a\nb", "a\udce4b", "é" * 101):
        assert not is_plain_name(name)
        assert "must be a name of at most 200 bytes, without slashes and quotes" in _message(
            lambda name=name: Shop(study=name).require_plain_name("study")
        )
    assert _message(Basket(name="bag").require_own_name) == (
        "basket.name=bag: is fixed to basket. Choose another basket with basket=bag."
    )


def test_the_training_size_is_recorded_as_numbers_and_read_back() -> None:
    for size in (TrainedSize((28, 20)), TrainedSize((28, 20), natural=True)):
        params = {key: str(value) for key, value in size.params().items()}
        assert recorded_size(params) == size
        # Before 2026-11-26 there was the text alone.
        assert recorded_size({"image_size": params["image_size"]}) == size
    assert str(TrainedSize((28, 20), natural=True)) == "natural, about 28×20"
    assert (TrainedSize((28, 20)).test_height, TrainedSize((28, 20), natural=True).test_height) == (28, None)
    assert recorded_size({}) is None
    assert recorded_size({"image_size": "large"}) is None
