"""A study read back, and the views and descriptions that show it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
import pytest
from mlflow import MlflowClient

from pipeline.common.names import QUESTION, Tag, size_tag
from pipeline.comparison.analysis import analyse
from pipeline.comparison.arms import PALETTE, size_verdicts
from pipeline.heads import HEADS
from pipeline.heads.verdict import Verdict
from pipeline.tracking.publish import name_runs, prepared_views, publish_views
from pipeline.tracking.queries import membership, newest_runs, runs_of_sweep, studies, sweep_filter, whole_trainings
from pipeline.tracking.store import experiment_id
from pipeline.tracking.views import VIEW_TAG, comparison_view, view_names, view_tag
from tests.comparison.studies import ASKS, STATISTICS, study

HEAD_NAMES = ("flatten_dense", "average_pool", "global_average_pool")


@pytest.mark.long
def test_whole_trainings_are_finished_not_pruned_and_alike(client: MlflowClient, tmp_path: Path) -> None:
    experiment = experiment_id(client, "digits", (tmp_path / "artifacts").as_uri())
    digits, pruned = {"dataset": "digits"}, {"dataset": "digits", Tag.PRUNED: "after epoch 1: …"}
    for sweep, curve, tags, epochs, status in (
        ("1", [(1, 0.5), (2, 0.7)], digits, 2, "FINISHED"),
        ("1", [(1, 0.4)], pruned, 2, "FINISHED"),
        ("1", [(1, 0.3)], digits, 2, "KILLED"),
        ("2", [(1, 0.2), (2, 0.3)], digits, 2, "FINISHED"),
        ("1", [(1, 0.2), (2, 0.2)], {"dataset": "mnist"}, 2, "FINISHED"),
        ("1", [(1, 0.1), (2, 0.1), (3, 0.1)], digits, 3, "FINISHED"),
        ("1", [(1, 0.1), (2, 0.2), (1, 0.6), (2, 0.9)], digits, 2, "FINISHED"),  # Killed before its state was saved.
    ):
        with mlflow.start_run(experiment_id=experiment, tags={**dict([membership(sweep)]), **tags}) as run:
            mlflow.log_param("training.epochs", epochs)
            for timestamp, (step, accuracy) in enumerate(curve):
                client.log_metric(run.info.run_id, "val/accuracy", accuracy, timestamp, step)
        client.set_terminated(run.info.run_id, status)
    assert whole_trainings("1", "digits", 2) == [[0.5, 0.7], [0.6, 0.9]]
    assert whole_trainings("3", "digits", 2) == []


def test_verdicts_are_read_from_tags_in_order_of_size() -> None:
    run = pd.Series(
        {"tags.size.104px": "adapts", "tags.size.016px": "crops", "tags.size.020px": None, "tags.head": "x"}
    )
    assert size_verdicts(run) == {16: Verdict.CROPS, 104: Verdict.ADAPTS}
    assert list(size_verdicts(run)) == [16, 104]


@pytest.fixture
def client(store: Path) -> MlflowClient:
    return MlflowClient()


def _record(
    experiment: str, sweep: str | None, head: str = "flat", of_study: str | None = "heads", **params: str
) -> str:
    """A finished run with the tags and params that views are made of; returns its id."""
    tags = {"head": head, "size.008px": "native", "size.016px": "refuses"}
    tags |= dict([membership(sweep)]) if sweep else {}
    tags |= {"study": of_study} if of_study else {}
    with mlflow.start_run(experiment_id=experiment, tags=tags) as run:
        mlflow.log_params({"head": head, **params})
    return str(run.info.run_id)


def _state(client: MlflowClient, experiment: str, key: str) -> dict[str, Any]:
    return json.loads(json.loads(client.get_experiment(experiment).tags[VIEW_TAG + key])["state"])


@pytest.mark.long
def test_the_newest_call_of_a_study_is_found_in_each_experiment(client: MlflowClient, tmp_path: Path) -> None:
    digits, fashion = (
        experiment_id(MlflowClient(), name, (tmp_path / "artifacts").as_uri()) for name in ("digits", "fashion")
    )
    calls = ((digits, "1"), (fashion, "2"), (digits, "3"), (digits, "3"))
    first, *_, last = [_record(experiment, sweep) for experiment, sweep in calls]
    _record(digits, "4", of_study="other")
    found = newest_runs("heads")
    assert sorted(zip(found["experiment_id"], found["sweep"], strict=True)) == [
        (digits, "3"),
        (digits, "3"),
        (fashion, "2"),
    ]
    # Another call asks for runs of both that were there; they stay with those, too.
    for run_id in (first, last):
        client.set_tag(run_id, *membership("it's 5"))
    found = newest_runs("heads")
    assert set(found["run_id"][found["experiment_id"] == digits]) == {first, last}
    assert set(found["sweep"]) == {"2", "it_s 5"}
    assert len(runs_of_sweep("3")) == 2
    assert set(runs_of_sweep("it's 5")["run_id"]) == {first, last}
    assert newest_runs("nothing").empty
    assert studies() == ["heads", "other"]


@pytest.mark.long
def test_views_of_studies_and_datasets_stay_apart(client: MlflowClient, tmp_path: Path) -> None:
    digits, fashion = (
        experiment_id(MlflowClient(), name, (tmp_path / "artifacts").as_uri()) for name in ("digits", "fashion")
    )
    _record(digits, "1", question="Which head?")
    _record(fashion, "1", question="Which head?")
    _record(digits, "2", of_study="widths", **{"head.hidden_units": "[8]"})
    _record(digits, "2", of_study="widths", **{"head.hidden_units": "[16]"})
    prepared = publish_views(runs_of_sweep("1")) + publish_views(runs_of_sweep("2"))
    assert [(view.experiment, view.key) for view in prepared] == [
        ("digits", "study-heads"),
        ("fashion", "study-heads"),
        ("digits", "study-widths"),
    ]
    assert prepared[1].link("http://host") == (
        f"http://host/#/experiments/{fashion}/runs"
        "?workflowType=machine_learning&compareRunsMode=CHART&viewStateShareKey=study-heads"
    )
    state = _state(client, digits, "study-heads")
    assert state["searchFilter"] == "tags.`sweep.1` != ''"
    assert state["groupBy"] is None
    assert state["selectedColumns"][-2:] == ["tags.`size.008px`", "tags.`size.016px`"]
    # The means are taken over what differs in nothing but its seed.
    grouped = _state(client, digits, "study-widths-mean")["groupBy"]["groupByKeys"]
    assert [key["groupByData"] for key in grouped] == ["head", "head.hidden_units"]
    assert set(view_names(client.get_experiment(fashion).tags)) == {"all", "study-heads", "study-heads-mean"}
    assert {view.key for view in prepared_views()} == {"study-heads", "study-widths"}

    # Views of another form are somebody else's, and a call that is no time is none.
    for number, foreign in enumerate(("no JSON", "[]", "7", '{"name": "x"}', '{"name": "x", "updatedAt": "soon"}')):
        client.set_experiment_tag(digits, f"{VIEW_TAG}study-{number}", foreign)
    assert {view.key for view in prepared_views()} == {"study-heads", "study-widths"}
    runs = runs_of_sweep("2")
    client.set_tag(runs["run_id"].iloc[0], "sweep.9", "x")
    assert newest_runs("widths")["sweep"].tolist() == ["2", "2"]
    publish_views(runs)

    # The description puts the newest study first and keeps a link to the other one.
    first, second, *_ = client.get_experiment(digits).tags[Tag.DESCRIPTION].split("\n\n")
    assert first.startswith(f"**{QUESTION}** [widths: arms compared](#/experiments/{digits}/runs?")
    assert "viewStateShareKey=study-widths-mean" in first
    assert second.startswith("[heads: heads compared](")
    assert client.get_experiment(fashion).tags[Tag.DESCRIPTION].startswith("**Which head?** [heads: heads")


@pytest.mark.long
@pytest.mark.parametrize(
    ("arms", "heads", "told_by"),
    [
        (None, ["flat", "pool"], ["head"]),
        (["None", "None"], ["flat", "pool"], ["head"]),
        (["short", "long"], ["flat", "pool"], ["arm"]),
        (["short", "long"], ["flat", "flat"], ["arm"]),
        (["long", "long"], ["flat", "pool"], ["arm", "head"]),
        (["None", "long"], ["flat", "flat"], ["arm", "head"]),
    ],
    ids=str,
)
def test_means_are_over_runs_of_one_arm_and_head(
    arms: list[str] | None, heads: list[str], told_by: list[str], client: MlflowClient, tmp_path: Path
) -> None:
    experiment = experiment_id(client, "digits", (tmp_path / "artifacts").as_uri())
    for number, head in enumerate(heads):
        _record(experiment, "1", head, **({"arm": arms[number]} if arms else {}))
    publish_views(runs_of_sweep("1"))
    grouped = _state(client, experiment, "study-heads-mean")["groupBy"]["groupByKeys"]
    assert [key["groupByData"] for key in grouped] == told_by
    # The other view is told by the same, and sorted by it.
    each = _state(client, experiment, "study-heads")
    assert each["selectedColumns"][: len(told_by)] == [f"params.`{name}`" for name in told_by]
    assert each["orderByKey"] == f"params.`{told_by[0]}`"
    compared = "heads" if told_by == ["head"] else "arms"
    assert view_names(client.get_experiment(experiment).tags)["study-heads"][0] == f"heads: {compared} compared"


@pytest.mark.long
def test_runs_are_named_and_coloured_after_their_arms(client: MlflowClient, tmp_path: Path) -> None:
    """Two arms of one head would have one name and one colour; `heads_by_size` and the like."""
    runs = study(seeds=2)
    runs = runs[runs["tags.head"] == "average_pool"]
    runs = pd.concat([runs.assign(**{"params.arm": arm}) for arm in ("short", "long")], ignore_index=True)
    experiment = experiment_id(client, "digits", (tmp_path / "artifacts").as_uri())
    runs["run_id"] = [
        client.create_run(experiment, tags={Tag.COLOR: color}, run_name="x").info.run_id
        for color in runs[Tag.COLOR.column]
    ]
    (group,) = analyse(runs, STATISTICS, ASKS)
    name_runs(group.arms)
    found = [client.get_run(run_id) for run_id in runs["run_id"]]
    assert [run.info.run_name for run in found] == ["short seed 0", "short seed 1", "long seed 0", "long seed 1"]
    # By their names: long is first.
    assert [run.data.tags[Tag.COLOR] for run in found] == [PALETTE[1], PALETTE[1], PALETTE[0], PALETTE[0]]

    # In a study of heads, they have the colours of their heads all the same.
    heads = study(seeds=2).assign(**{Tag.COLOR.column: PALETTE[1]})
    (group,) = analyse(heads, STATISTICS, ASKS)
    assert {arm.name: arm.color for arm in group.arms} == {
        head.name: head.color for head in HEADS if head.name in HEAD_NAMES
    }


@pytest.mark.long
def test_what_a_user_writes_below_the_line_of_a_description_stays(client: MlflowClient, tmp_path: Path) -> None:
    digits = experiment_id(MlflowClient(), "digits", (tmp_path / "artifacts").as_uri())
    _record(digits, "1")
    publish_views(runs_of_sweep("1"))
    written = client.get_experiment(digits).tags[Tag.DESCRIPTION]
    assert written.endswith("\n* * *\n")
    client.set_experiment_tag(digits, Tag.DESCRIPTION, written + "My notes.")
    publish_views(runs_of_sweep("1"))
    assert client.get_experiment(digits).tags[Tag.DESCRIPTION] == written + "My notes."


@pytest.mark.long
def test_a_single_run_has_a_view_and_does_not_take_a_studys_place(client: MlflowClient, tmp_path: Path) -> None:
    digits = experiment_id(MlflowClient(), "digits", (tmp_path / "artifacts").as_uri())
    _record(digits, None, of_study=None)
    (alone,) = publish_views(mlflow.search_runs([digits]))
    assert (alone.key, alone.name) == ("all", "all runs")
    assert "all runs" in client.get_experiment(digits).tags[Tag.DESCRIPTION]
    assert [view.key for view in prepared_views()] == ["all"]
    _record(digits, "1")
    publish_views(runs_of_sweep("1"))
    before = client.get_experiment(digits).tags[Tag.DESCRIPTION]
    publish_views(mlflow.search_runs([digits], "attributes.run_name != ''").iloc[-1:])
    assert client.get_experiment(digits).tags[Tag.DESCRIPTION] == before


def test_a_large_study_fits_into_an_experiment_tag() -> None:
    """MLflow cuts the tags of an experiment at 20,000 characters without a word."""
    state = comparison_view(
        sweep_filter("2026-11-23_03-31-24-123456"), [size_tag(px) for px in range(60)], ["way"], ["head"]
    )
    _, value = view_tag("study-heads-mean", "heads: mean over seeds", state)
    assert len(value) < 20_000
