"""What there is to see in a store, in short: the calls of studies with their answers, and the newest single runs."""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
from mlflow import MlflowClient
from mlflow.entities import Experiment, Run

from pipeline.common.names import QUESTION, SWEEP, File, Metric, Param, Tag, sweep_tag
from pipeline.common.settings import is_plain_name
from pipeline.comparison.arms import common_value, split_into_arms
from pipeline.comparison.report.markdown import answer_of
from pipeline.tracking.progress import Progress, call_time, recorded_number
from pipeline.tracking.publish import MEAN, STUDY_KEY, SWEEP_KEY, View
from pipeline.tracking.queries import sweep_filter
from pipeline.tracking.views import VIEW_TAG, view_names

NEWEST_RUNS = 40
"""So many of the newest runs are looked at for what is new; MLflow takes some milliseconds for each."""
MOST_CALLS = 12
"""Calls of studies that are shown in full; of older studies there are links."""
MOST_SINGLE_RUNS = 10
KEPT_SECONDS = 60.0
"""For so long a finished run is not read again: it may get another name, or be deleted."""
SHARE_OF_READING = 0.01
"""Of the time at most goes into reading the runs of a call anew."""
QUIET_SECONDS = 300.0
"""A sweep of which nothing was heard for longer, and for three of its runs, is taken for one that was stopped."""


class State(Enum):
    """How far a call of a study has come."""

    RUNNING = "running"
    STOPPED = "stopped"
    COMPARING = "comparing"
    ENDED = "ended"


@dataclass(frozen=True)
class ArmSoFar:
    """The finished runs of an arm.

    Attributes:
        name: Of the arm.
        runs: How many have finished.
        accuracy: Their mean test accuracy; NaN if none is recorded.
    """

    name: str
    runs: int
    accuracy: float


@dataclass(frozen=True)
class RunLine:
    """One run.

    Attributes:
        experiment_id: Of its experiment.
        experiment: That experiment's name.
        run_id: MLflow's.
        name: For people.
        status: MLflow's word for how it ended, in small letters.
        accuracy: On the test images; NaN if none is recorded.
        started: In seconds since 1970.
    """

    experiment_id: str
    experiment: str
    run_id: str
    name: str
    status: str
    accuracy: float
    started: float


@dataclass(frozen=True)
class Call:
    """One call of a study, or another sweep, in one experiment.

    Attributes:
        experiment_id: Of the experiment.
        experiment: Its name.
        study: Name of the study; None for a sweep without one.
        sweep: Name of the call.
        since: When it was called, in seconds since 1970.
        question: What it asks.
        backbones: Names, as recorded.
        answer: In words; None where no report was made yet.
        report_run: Id of the run that has its report; None where there is none.
        has_report_file: Whether its report is in `output_dir`.
        views: Prepared views that show it, the one to look at first in front.
        runs: Newest first.
        arms: What has finished, in the order of their first runs; none once the call has ended, as the answer says it.
        state: How far it has come.
        asked: How many runs it asks for; None where that is not known.
        ended: How many of these have ended.
        epochs: Of each run that is at work: its name, and how many epochs of how many it has done.
        seconds_left: About so long until the last run ends; None where that cannot be told yet.
    """

    experiment_id: str
    experiment: str
    study: str | None
    sweep: str
    since: float
    question: str
    backbones: Sequence[str]
    answer: str | None
    report_run: str | None
    has_report_file: bool
    views: Sequence[View]
    runs: Sequence[RunLine]
    arms: Sequence[ArmSoFar]
    state: State
    asked: int | None
    ended: int
    epochs: Sequence[tuple[str, int, str]]
    seconds_left: float | None


@dataclass(frozen=True)
class Overview:
    """What the front page shows.

    Attributes:
        calls: Newest first.
        older: Views of studies that are not among these.
        single_runs: The newest that belong to no sweep.
        experiments: Ids and names of those that hold runs.
    """

    calls: Sequence[Call]
    older: Sequence[View]
    single_runs: Sequence[RunLine]
    experiments: Sequence[tuple[str, str]]


class Store:
    """Reads the store that MLflow points at, and keeps in mind what does not change any more.

    Args:
        output_path: The `output_dir` of a local store, which has reports of earlier calls; None for any other.
    """

    def __init__(self, output_path: Path | None) -> None:
        self._output_path = output_path
        self._finished: dict[tuple[str, str], dict[str, dict[str, Any]]] = {}
        self._read_again: dict[tuple[str, str], float] = {}

    def overview(self, now: float | None = None) -> Overview:
        """What there is to see.

        Args:
            now: In seconds since 1970; None for the time that it is.
        """
        now = time.time() if now is None else now
        client = MlflowClient()
        experiments = {experiment.experiment_id: experiment for experiment in client.search_experiments()}
        newest = _rows(list(experiments), f"{Tag.HEAD.column} != ''", NEWEST_RUNS)
        reports = client.search_runs(
            list(experiments), f"{Tag.REPORT.column} != ''", order_by=["attributes.end_time DESC"]
        )
        # A later call renews the report of its study, and then names itself as the last.
        report_of = {
            (run.info.experiment_id, run.data.tags.get(Tag.LOOKS, "").rpartition(",")[2]): run for run in reports
        }
        compared = [key for key in report_of if key[1]][:MOST_CALLS]
        candidates = dict.fromkeys([*_calls_among(newest), *compared])
        found = []
        for experiment_id, sweep in candidates:
            members = self._members(experiment_id, sweep)
            if members:
                found.append((experiment_id, sweep, members, call_time(members, sweep)))
        found.sort(key=lambda call: call[3], reverse=True)
        everywhere: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for _, sweep, members, _ in found:
            everywhere[sweep] += members
        calls = [
            self._call(
                client, experiments[at], sweep, members, everywhere[sweep], since, report_of.get((at, sweep)), now
            )
            for at, sweep, members, since in _without_repeated(found)[:MOST_CALLS]
        ]
        shown = {(view.experiment_id, view.key) for call in calls for view in call.views}
        older = [view for view in _views(experiments.values()) if (view.experiment_id, view.key) not in shown]
        hold_runs = {row["experiment_id"] for row in newest}
        single = [row for row in newest if not any(name.startswith(_SWEEP_COLUMN) for name in _given(row))]
        return Overview(
            calls,
            older,
            [_line(row, experiments[row["experiment_id"]].name) for row in single[:MOST_SINGLE_RUNS]],
            [
                (experiment_id, experiment.name)
                for experiment_id, experiment in experiments.items()
                if experiment_id in hold_runs or client.search_runs([experiment_id], max_results=1)
            ],
        )

    def report_page(self, sweep: str) -> str | None:
        """The report on a call from `output_dir`, as HTML; None if there is none."""
        path = self._report_file(sweep)
        return path.read_text() if path else None

    def _report_file(self, sweep: str) -> Path | None:
        if self._output_path is None or not is_plain_name(sweep):
            return None
        path = self._output_path / "studies" / sweep / File.REPORT_PAGE
        return path if path.is_file() else None

    def _members(self, experiment_id: str, sweep: str) -> list[dict[str, Any]]:
        """The runs of a call, newest first. What has finished changes seldom: mostly the rest is asked for."""
        call, began = (experiment_id, sweep), time.monotonic()
        known = self._finished.setdefault(call, {})
        if is_due := began >= self._read_again.get(call, 0.0):
            known.clear()
        rest = f"{Tag.HEAD.column} != '' and {sweep_filter(sweep)}"
        if known:
            rest += f" and attributes.run_id NOT IN ({', '.join(map(repr, known))})"
        rows = _rows([experiment_id], rest)
        known |= {row["run_id"]: row for row in rows if row["status"] == "FINISHED"}
        if is_due:
            took = time.monotonic() - began
            self._read_again[call] = began + max(KEPT_SECONDS, took / SHARE_OF_READING)
        open_rows = [row for row in rows if row["status"] != "FINISHED"]
        return sorted([*known.values(), *open_rows], key=lambda row: row["start_time"], reverse=True)

    def _call(
        self,
        client: MlflowClient,
        experiment: Experiment,
        sweep: str,
        members: list[dict[str, Any]],
        everywhere: list[dict[str, Any]],
        since: float,
        report: Run | None,
        now: float,
    ) -> Call:
        table = pd.DataFrame(members)
        study = common_value(table, Tag.STUDY.column)
        file = self._report_file(sweep)
        standing = _Standing(client, everywhere, sweep, now, report is not None or file is not None)
        answer = report.data.tags.get(Tag.DESCRIPTION) if report else None
        if answer is None and file is not None and (text := file.parent / File.REPORT_TEXT).is_file():
            answer = text.read_text()
        return Call(
            experiment_id=experiment.experiment_id,
            experiment=experiment.name,
            study=study,
            sweep=sweep,
            since=since,
            question=common_value(table, Param.QUESTION.column) or QUESTION,
            backbones=sorted({row[Tag.BACKBONE.column] for row in members if row.get(Tag.BACKBONE.column)}),
            answer=answer_of(answer) if answer else None,
            report_run=report.info.run_id if report else None,
            has_report_file=file is not None,
            views=[view for view in _views([experiment]) if _shows(experiment, view.key, study, sweep)],
            runs=[_line(row, experiment.name) for row in members],
            arms=[] if standing.state is State.ENDED else list(_so_far(table[table["status"] == "FINISHED"][::-1])),
            state=standing.state,
            asked=standing.asked,
            ended=standing.ended,
            epochs=standing.epochs,
            seconds_left=standing.seconds_left,
        )


class _Standing:
    """How far a call has come, and whether it goes on.

    Args:
        client: Of the store.
        members: Its runs, in all experiments.
        sweep: Its name.
        now: The time.
        compared: Whether its report was made.
    """

    def __init__(
        self, client: MlflowClient, members: Sequence[Mapping[str, Any]], sweep: str, now: float, compared: bool
    ) -> None:
        progress = Progress.of(members, sweep, now)
        self.asked, self.ended, self.seconds_left = progress.asked, progress.ended, progress.seconds_left
        self.epochs: list[tuple[str, int, str]] = []
        signs = [progress.last_end]
        for row in members:
            if row["status"] == "RUNNING":
                signs.append(max(row["start_time"].timestamp(), self._newest_epoch(client, row)))
        statuses = {row["status"] for row in members}
        quiet = now - max(signs) > max(QUIET_SECONDS, 0.0 if math.isnan(progress.pace) else 3 * progress.pace)
        is_whole = self.asked is not None and self.ended >= self.asked
        is_stopped = "KILLED" in statuses and "RUNNING" not in statuses
        if compared or (is_whole and quiet) or (self.asked is None and not {"RUNNING", "KILLED"} & statuses):
            self.state = State.ENDED
        elif is_whole:
            self.state = State.COMPARING
        else:
            self.state = State.STOPPED if quiet or is_stopped else State.RUNNING

    def _newest_epoch(self, client: MlflowClient, row: Mapping[str, Any]) -> float:
        """When a run that is at work was heard of last, in seconds since 1970; 0 if it has done no epoch."""
        points = client.get_metric_history(row["run_id"], Metric.TRAIN_LOSS)
        epochs = str(row.get("params.training.epochs") or "?")
        self.epochs.append((_name(row), max((point.step for point in points), default=0), epochs))
        return max((point.timestamp / 1000 for point in points), default=0.0)


_SWEEP_COLUMN = f"tags.{SWEEP}"


def _rows(experiment_ids: list[str], filter_string: str, most: int = 10_000) -> list[dict[str, Any]]:
    """Runs, the newest first, as `mlflow.search_runs` gives them."""
    found = mlflow.search_runs(experiment_ids, filter_string, max_results=most, order_by=["attributes.start_time DESC"])
    return found.to_dict("records")


def _given(row: Mapping[str, Any]) -> list[str]:
    """The columns in which a run has a text."""
    return [name for name, value in row.items() if isinstance(value, str)]


def _calls_among(rows: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, str]]:
    """Experiment and name of the calls that runs belong to, but for those all of whose runs a later one has, too."""
    calls: dict[tuple[str, str], tuple[float, set[str]]] = {}
    for row in rows:
        for name in _given(row):
            if name.startswith(_SWEEP_COLUMN) and not math.isnan(since := recorded_number(row[name])):
                key = (row["experiment_id"], name.removeprefix(_SWEEP_COLUMN))
                latest, members = calls.get(key, (0.0, set()))
                calls[key] = (max(latest, since), members | {row["run_id"]})
    for key, (since, members) in calls.items():
        if not any(later > since and members <= others for other, (later, others) in calls.items() if other != key):
            yield key


def _without_repeated(found: list[Any]) -> list[Any]:
    """The calls, newest first, but for those all of whose runs a later one has, too."""
    kept: list[Any] = []
    for call in found:
        runs = {row["run_id"] for row in call[2]}
        if not any(runs <= {row["run_id"] for row in later[2]} for later in kept):
            kept.append(call)
    return kept


def _shows(experiment: Experiment, key: str, study: str | None, sweep: str) -> bool:
    """Whether a view is about a call, and not about another one of the same study."""
    names = (STUDY_KEY + study, STUDY_KEY + study + MEAN) if study else (SWEEP_KEY, SWEEP_KEY + MEAN)
    return key in names and f"{sweep_tag(sweep)}`" in experiment.tags[VIEW_TAG + key]


def _views(experiments: Iterable[Experiment]) -> list[View]:
    """The views of studies and sweeps, those that show each run before those that show means."""
    return [
        View(experiment.experiment_id, experiment.name, key, name)
        for experiment in experiments
        for key, (name, _) in sorted(view_names(experiment.tags).items())
        if key.startswith((STUDY_KEY, SWEEP_KEY))
    ]


def _so_far(finished: pd.DataFrame) -> Iterator[ArmSoFar]:
    if finished.empty:
        return
    for name, runs in split_into_arms(finished):
        accuracies = runs.get(Metric.TEST_ACCURACY.column, pd.Series(dtype=float))
        yield ArmSoFar(name, len(runs), float(accuracies.mean()))


def _line(row: Mapping[str, Any], experiment: str) -> RunLine:
    accuracy = row.get(Metric.TEST_ACCURACY.column)
    return RunLine(
        row["experiment_id"],
        experiment,
        row["run_id"],
        _name(row),
        row["status"].lower(),
        math.nan if accuracy is None else float(accuracy),
        row["start_time"].timestamp(),
    )


def _name(row: Mapping[str, Any]) -> str:
    name = row.get("tags.mlflow.runName")
    return name if isinstance(name, str) and name else row["run_id"]
