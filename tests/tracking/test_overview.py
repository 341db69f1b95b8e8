"""The dashboard's front page, made from a store."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

import mlflow
import pytest
from mlflow import MlflowClient

from pipeline.common.names import Tag
from pipeline.tracking.overview import State, Store
from pipeline.tracking.publish import publish_views, record_report
from pipeline.tracking.queries import runs_of_sweep
from pipeline.tracking.server.front_page import front_page
from pipeline.tracking.store import experiment_id

CALLED = 1_800_000_000.0
"""Seconds since 1970 at which the studies of these tests are called."""


@pytest.fixture
def client(store: Path) -> MlflowClient:
    return MlflowClient()


@pytest.fixture
def digits(client: MlflowClient, tmp_path: Path) -> str:
    """Id of an experiment."""
    return experiment_id(client, "digits", (tmp_path / "artifacts").as_uri())


def _record(
    client: MlflowClient,
    experiment: str,
    head: str,
    began: float,
    ended: float | None,
    accuracy: float | None = None,
    status: str = "FINISHED",
    called: str = "heads",
    **calls: float,
) -> str:
    """A run of nine, with times in seconds after `CALLED`, of calls of a study since such times; returns its id."""
    tags = {"head": head, "backbone": "small_fcn", **({"study": called} if calls else {})}
    for call, since in calls.items():
        tags |= {f"sweep.{call}": f"{CALLED + since:.3f}", f"sweep_runs.{call}": "9"}
    run_id = client.create_run(experiment, int(1000 * (CALLED + began)), tags, f"{head} seed 0").info.run_id
    for name, value in {"head": head, "seed": "0", "question": f"{called}?", "training.epochs": "5"}.items():
        client.log_param(run_id, name, value)
    if accuracy is not None:
        client.log_metric(run_id, "test/accuracy", accuracy)
    if ended is not None:
        client.set_terminated(run_id, status, int(1000 * (CALLED + ended)))
    return str(run_id)


def _text(page: str) -> str:
    """What a reader sees of the page, with single spaces."""
    main = page[page.index("<main") : page.index("</main>")]
    return " ".join(re.sub("<[^>]*>", " ", main).split())


@pytest.mark.long
def test_without_a_study_it_says_what_to_type(client: MlflowClient, digits: str) -> None:
    assert "There is no study yet Type make heads" in _text(front_page(Store(None).overview()))
    _record(client, digits, "flat", 0, 60, 0.5)
    page = _text(front_page(Store(None).overview()))
    assert "There is no study yet" in page
    assert "Newest single runs run experiment test accuracy status started flat seed 0 digits 0.5000 finished" in page


@pytest.mark.long
def test_a_running_study_shows_how_far_it_is(client: MlflowClient, digits: str) -> None:
    _record(client, digits, "flat", 0, 60, 0.9, now=0)
    _record(client, digits, "flat", 60, 120, 0.7, now=60)
    _record(client, digits, "pool", 120, 180, 0.6, now=120)
    running = _record(client, digits, "pool", 180, None, now=180)
    client.log_metric(running, "train/loss", 0.3, int(1000 * (CALLED + 190)), step=2)
    store = Store(None)
    (call,) = store.overview(CALLED + 200).calls
    assert (call.state, call.asked, call.ended, call.epochs) == (State.RUNNING, 9, 3, [("pool seed 0", 2, "5")])
    # Three runs took 180 s. Six are left, and the fourth is at work for 20 s: 6 · 60 - 20.
    assert call.seconds_left == pytest.approx(340)
    page = _text(front_page(store.overview(CALLED + 200)))
    assert "Run 4 of 9, about 6 min left At work: pool seed 0, 2 of 5 epochs done" in page
    assert "so far runs mean test accuracy flat 2 0.8000 pool 1 0.6000" in page  # (0.9 + 0.7) / 2
    assert 'data-refresh="5"' in front_page(store.overview(CALLED + 200))

    # Nothing was heard of it for more than 300 s: its process was killed.
    assert store.overview(CALLED + 489).calls[0].state is State.RUNNING
    page = front_page(store.overview(CALLED + 491))
    assert "Stopped after 3 of 9 runs. The same command goes on." in _text(page)
    assert 'data-refresh="30"' in page

    # The store has kept in mind what had finished, and hears of what finishes now.
    client.log_metric(running, "test/accuracy", 0.8)
    client.set_terminated(running, "FINISHED", int(1000 * (CALLED + 240)))
    (call,) = store.overview(CALLED + 250).calls
    assert [(arm.name, arm.runs, round(arm.accuracy, 4)) for arm in call.arms] == [("flat", 2, 0.8), ("pool", 2, 0.7)]


@pytest.mark.long
def test_a_study_over_two_experiments_runs_as_long_as_one_of_them_does(
    client: MlflowClient, digits: str, tmp_path: Path
) -> None:
    """The four runs on digits are done; on fashion one of five is at work, 350 s after the last sign from digits."""
    fashion = experiment_id(client, "fashion", (tmp_path / "artifacts").as_uri())
    for began in (0, 60, 120, 180):
        _record(client, digits, "flat", began, began + 60, 0.9, now=began)
    running = _record(client, fashion, "flat", 240, None, now=240)
    client.log_metric(running, "train/loss", 0.3, int(1000 * (CALLED + 560)), step=2)
    for call in Store(None).overview(CALLED + 590).calls:
        assert (call.state, call.asked, call.ended) == (State.RUNNING, 9, 4)


@pytest.mark.long
def test_renamed_and_deleted_runs_are_seen_after_a_while(
    client: MlflowClient, digits: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept, gone = (_record(client, digits, "flat", began, began + 60, 0.9, now=began) for began in (0, 60))
    store = Store(None)
    assert len(store.overview(CALLED + 130).calls[0].runs) == 2
    client.update_run(kept, name="short seed 0")
    client.delete_run(gone)
    at = time.monotonic()
    monkeypatch.setattr("pipeline.tracking.overview.time.monotonic", lambda: at + 3600)
    assert [run.name for run in store.overview(CALLED + 140).calls[0].runs] == ["short seed 0"]


@pytest.mark.long
def test_runs_of_an_earlier_call_make_no_pace(client: MlflowClient, digits: str) -> None:
    for began in (0, 60, 120):
        _record(client, digits, "flat", began, began + 60, 0.9, first=began, second=5000)
    _record(client, digits, "pool", 5000, 5030, 0.8, second=5000)
    _record(client, digits, "pool", 5030, None, second=5030)
    (call,) = Store(None).overview(CALLED + 5040).calls  # Of the first call, the second has all runs.
    assert (call.sweep, call.ended, call.state) == ("second", 4, State.RUNNING)
    # One run took 30 s. Five are left, and one is at work for 10 s: 5 · 30 - 10.
    assert call.seconds_left == pytest.approx(140)


@pytest.mark.long
def test_a_study_that_was_stopped_by_hand_is_told_as_such_at_once(client: MlflowClient, digits: str) -> None:
    _record(client, digits, "flat", 0, 60, 0.9, now=0)
    _record(client, digits, "pool", 60, 70, status="KILLED", now=60)
    assert "Stopped after 1 of 9 runs." in _text(front_page(Store(None).overview(CALLED + 71)))


@pytest.mark.long
def test_studies_show_their_answers_newest_first(client: MlflowClient, digits: str, tmp_path: Path) -> None:
    fashion = experiment_id(client, "fashion", (tmp_path / "artifacts").as_uri())
    for experiment, call, at in ((digits, "one", 0), (fashion, "two", 1000)):
        _record(client, experiment, "flat", at, at + 60, 0.9, **dict[str, Any]({call: at}))
        directory = tmp_path / call
        directory.mkdir()
        (directory / "report.html").write_text("<p>The report</p>")
        record_report(experiment, runs_of_sweep(call), f"**Flat, says {call}.**\n\n| a table |", directory)
        publish_views(runs_of_sweep(call))
    overview = Store(None).overview(CALLED + 2000)
    assert [(call.experiment, call.sweep, call.answer, call.state) for call in overview.calls] == [
        ("fashion", "two", "Flat, says two.", State.ENDED),
        ("digits", "one", "Flat, says one.", State.ENDED),
    ]
    page = front_page(overview)
    link = (
        f"./#/experiments/{fashion}/runs?workflowType=machine_learning&amp;compareRunsMode=CHART&amp;viewStateShareKey="
    )
    assert f'<a class="first" href="{link}study-heads">Charts</a>' in page
    assert f'<a href="{link}study-heads-mean">Mean over seeds</a>' in page
    assert f'href="studies-report?run={overview.calls[0].report_run}"' in page
    assert overview.older == []

    # A newer call that is not compared yet has neither the views nor the report of the one before it, which keeps both.
    _record(client, fashion, "pool", 1500, None, three=1500)
    newest, before, _ = Store(None).overview(CALLED + 1600).calls
    assert (newest.sweep, newest.answer, newest.views, newest.report_run) == ("three", None, [], None)
    assert (before.answer, [view.key for view in before.views]) == (
        "Flat, says two.",
        ["study-heads", "study-heads-mean"],
    )


@pytest.mark.long
def test_a_call_whose_report_was_renewed_keeps_the_one_in_output_dir(
    client: MlflowClient, digits: str, tmp_path: Path
) -> None:
    _record(client, digits, "flat", 0, 60, 0.9, one=0)
    (tmp_path / "studies" / "one").mkdir(parents=True)
    (tmp_path / "studies" / "one" / "report.html").write_text("<p>The report</p>")
    (tmp_path / "studies" / "one" / "report.md").write_text("**Flat.**\n\n| a table |\n")
    store = Store(tmp_path)
    (call,) = store.overview(CALLED + 100).calls
    assert (call.answer, call.report_run, call.state) == ("Flat.", None, State.ENDED)
    assert '<a class="first" href="studies-report?call=one">Report</a>' in front_page(store.overview(CALLED + 100))
    assert store.report_page("one") == "<p>The report</p>"
    assert [store.report_page(name) for name in ("two", "../studies/one", "..", "")] == [None] * 4
    assert Store(None).report_page("one") is None


@pytest.mark.long
def test_names_from_outside_are_text(client: MlflowClient, digits: str) -> None:
    evil = "<img src=x onerror=alert(1)>\"'&{{ 7 * 7 }}"
    _record(client, digits, evil, 0, 60, 0.9, called=evil, now=0)
    run_id = _record(client, digits, evil, 60, None, called=evil, now=60)
    client.set_tag(run_id, "backbone", evil)
    client.set_tag(run_id, "sweep.no-time", evil)
    client.set_tag(run_id, "sweep_runs.now", evil)
    page = front_page(Store(None).overview(CALLED + 100))
    assert "<img" not in page
    assert "49" not in _text(page)
    assert page.count("&lt;img src=x onerror=alert(1)&gt;&#34;&#39;&amp;{{ 7 * 7 }}") > 5


def test_the_newest_single_runs_are_those_of_no_sweep(client: MlflowClient, digits: str) -> None:
    _record(client, digits, "flat", 0, 60, 0.9, now=0)
    alone = _record(client, digits, "pool", 60, 90, 0.8)
    client.set_tag(alone, Tag.STUDY, "heads")  # As study=heads hydra.mode=RUN leaves it.
    overview = Store(None).overview(CALLED + 100)
    assert [run.run_id for run in overview.single_runs] == [alone]
    assert mlflow.get_run(alone).data.tags["head"] == "pool"
