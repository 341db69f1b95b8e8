"""What the head of a recorded run computes, told by its tag or by its params."""

from __future__ import annotations

import dataclasses
from dataclasses import replace

import pandas as pd
import pytest

from pipeline.comparison.analysis import analyse
from pipeline.comparison.recorded import asked, head_function
from pipeline.comparison.settings import About, Asks
from pipeline.heads import HEADS
from pipeline.heads.average import AveragePool
from pipeline.heads.base import Head
from pipeline.heads.flatten import FlattenDense
from pipeline.heads.global_pools import GeneralizedMeanPool, GlobalAveragePool
from pipeline.heads.pointwise import ConvPool
from pipeline.heads.pyramid import SpatialPyramidPool
from tests.comparison.studies import ASKS, STATISTICS, study


def _recorded(head: Head) -> pd.Series:
    """The params of a run as MLflow gives them back: text."""
    settings = {f"params.head.{field.name}": str(getattr(head, field.name)) for field in dataclasses.fields(head)}
    return pd.Series({**settings, "params.epochs": "5"})


@pytest.mark.parametrize(
    "head",
    [
        *(option() for option in HEADS),
        AveragePool(pool_size=[2, 2], strides=[1, 1], padding="same", hidden_units=[8, 4], dropout=0.5),
        GlobalAveragePool(keepdims=True, hidden_units=[8]),
        SpatialPyramidPool(levels=[1, 3]),
        GeneralizedMeanPool(p=1.0, trainable_p=True),
        ConvPool(hidden_filters=[8, 4], class_relu=True, pool="full_window"),
    ],
    ids=str,
)
def test_params_tell_what_a_run_did_not_record(head: Head) -> None:
    assert head_function(_recorded(head)) == head.function(native=None)


def test_what_is_recorded_wins_and_what_is_unknown_is_none() -> None:
    run = _recorded(FlattenDense())
    assert head_function(pd.concat([run, pd.Series({"tags.function": "mine"})])) == "mine"
    for change in ({"params.head.name": "gone"}, {"params.head.dropout": "7"}, {"params.head.hidden_units": "many"}):
        assert head_function(pd.Series({**run, **change})) is None


def test_arms_of_one_function_are_controls_whatever_their_heads_are_called() -> None:
    runs = study(seeds=3)
    flat, average, globally = (GeneralizedMeanPool(p=1.0), AveragePool(pool_size=[2, 2]), GlobalAveragePool())
    functions = {
        "flatten_dense": flat.function((2, 2)),
        "average_pool": average.function((2, 2)),
        "global_average_pool": globally.function((2, 2)),
    }
    assert len(set(functions.values())) == 1
    (group,) = analyse(runs.assign(**{"tags.function": runs["tags.head"].map(functions)}), STATISTICS, ASKS)
    assert [(control.first, control.second) for control in group.controls] == [
        ("flatten_dense", "average_pool"),
        ("flatten_dense", "global_average_pool"),
        ("average_pool", "global_average_pool"),
    ]
    # At another map, a window of 2×2 cells is no mean of all.
    functions["average_pool"] = average.function((4, 4))
    (group,) = analyse(runs.assign(**{"tags.function": runs["tags.head"].map(functions)}), STATISTICS, ASKS)
    assert [(control.first, control.second) for control in group.controls] == [("flatten_dense", "global_average_pool")]


def test_what_a_question_is_about_is_read_back() -> None:
    runs = pd.DataFrame(
        {
            "params.asks.about": ["interaction"] * 2,
            "params.asks.over": ["training.epochs"] * 2,
            "params.asks.primary": ["[['a', 'b']]"] * 2,
        }
    )
    recorded = Asks(about=About.interaction, over="training.epochs", primary=[["a", "b"]])
    assert asked(runs, Asks()) == recorded
    assert asked(runs, Asks(primary=[["a", "c"]])) == replace(recorded, primary=[["a", "c"]])
    assert asked(runs, Asks(about=About.ways)) == Asks(about=About.ways)
    assert asked(pd.DataFrame({"run_id": ["1"]}), Asks()) == Asks(about=About.training_size)
