"""Conditions and modes: their names, read back, and their order."""

from __future__ import annotations

import pytest

from pipeline.common.condition import TEST, Condition, Mode, at_height
from pipeline.common.names import size_accuracy, size_of_tag, size_tag, sweep_tag, ways_in


@pytest.mark.parametrize(
    ("condition", "text"),
    [
        (TEST, "test"),
        (Condition(Mode.RESIZE, 35), "resize_035px"),
        (Condition(Mode.CANVAS, 1024), "canvas_1024px"),
        (Condition(Mode.RESIZE, 35, "global_pool"), "resize_035px.global_pool"),
    ],
)
def test_a_condition_is_read_back_from_its_name(condition: Condition, text: str) -> None:
    assert str(condition) == text
    assert Condition.parse(text) == condition


@pytest.mark.parametrize("text", ["", "label", "example_id", "resize_px", "turn_035px", "resize_035px.", "resize_35"])
def test_what_is_no_name_of_a_condition_is_none(text: str) -> None:
    assert Condition.parse(text) is None


def test_the_training_size_comes_first_and_sizes_go_up() -> None:
    conditions = [Condition(Mode.RESIZE, 1024), Condition(Mode.CANVAS, 56), Condition(Mode.RESIZE, 35), TEST]
    assert [str(condition) for condition in sorted(conditions, key=lambda each: each.order)] == [
        *("test", "canvas_056px", "resize_035px", "resize_1024px")
    ]


def test_the_height_of_the_test_images_is_the_test() -> None:
    assert at_height(Mode.RESIZE, 28, 28) == TEST
    assert at_height(Mode.RESIZE, 28, None) == Condition(Mode.RESIZE, 28)  # Natural sizes.
    assert TEST.words("28 px") == "28 px"
    assert Condition(Mode.CANVAS, 35).words("28 px") == "35 px, on a canvas"


def test_names_of_metrics_and_tags_are_those_that_stores_have() -> None:
    assert size_accuracy(Mode.RESIZE) == "size/resize/accuracy"
    assert size_accuracy(Mode.CANVAS, "resize_input") == "size/resize_input/canvas/accuracy"
    columns = ["metrics.size/resize/accuracy", "metrics.size/b/resize/accuracy", "metrics.size/a/resize/accuracy", "x"]
    assert ways_in(columns) == ["b", "a"]
    assert (size_tag(14), size_of_tag("tags.size.014px"), size_of_tag("tags.head")) == ("size.014px", 14, None)
    assert sweep_tag("it's 5") == "sweep.it_s 5"
