"""What shows a study in MLflow's dashboard: its report, its views, its experiment's description."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import mlflow
import pandas as pd

from pipeline.common.names import QUESTION, File, Param, Tag, size_tag, ways_in
from pipeline.comparison.arms import Arm, arm_params, common_value, size_verdicts, varied_params
from pipeline.heads.verdict import LEGEND
from pipeline.tracking.identity import run_name
from pipeline.tracking.looks import remember_look, report_name
from pipeline.tracking.queries import sweep_filter
from pipeline.tracking.store import tried_twice
from pipeline.tracking.views import (
    artifact_link,
    comparison_view,
    shortened,
    view_link,
    view_names,
    view_tag,
)

DESCRIPTION_END = "* * *"
"""Closes what this program writes into an experiment's description; what a user writes below it stays."""
STUDY_KEY, SWEEP_KEY, ALL_KEY, MEAN = "study-", "sweep", "all", "-mean"
"""Keys of the views: the first with a study's name, and the first two also with `-mean` behind."""


@dataclass(frozen=True)
class View:
    """A prepared view of an experiment's runs.

    Attributes:
        experiment_id: Of the experiment that holds it.
        experiment: That experiment's name.
        key: Names it in links.
        name: Names it for people.
    """

    experiment_id: str
    experiment: str
    key: str
    name: str

    def link(self, server: str, table: bool = False) -> str:
        """Address that opens it; see `views.view_link`."""
        return view_link(server, self.experiment_id, self.key, table)


def record_report(experiment_id: str, runs: pd.DataFrame, text: str, directory: Path) -> None:
    """Records a study's report as a run of its own, one for each study and experiment, renewed by later calls.

    Args:
        experiment_id: Where.
        runs: That were compared in this experiment.
        text: The report in Markdown, for the run's description.
        directory: Whose files are recorded: the report as a web page and as Markdown.
    """
    client = mlflow.MlflowClient()
    name = report_name(runs)
    known = client.search_runs([experiment_id], f"tags.{Tag.REPORT} = '{name}'", max_results=1)
    run = (
        known[0]
        if known
        else client.create_run(experiment_id, tags={str(Tag.REPORT): name}, run_name=f"report on {name}")
    )
    client.log_artifacts(run.info.run_id, str(directory))
    client.set_tag(run.info.run_id, Tag.DESCRIPTION, shortened(text, File.REPORT_TEXT))
    remember_look(run.info.run_id, run.data.tags.get(Tag.LOOKS, ""), runs["sweep"].iloc[0])
    client.set_terminated(run.info.run_id)


def name_runs(arms: Iterable[Arm]) -> None:
    """Gives each run the name and the colour of its arm, so that lists and charts tell the arms of a study apart."""
    client = mlflow.MlflowClient()
    for arm in arms:
        for seed, (_, run) in zip(arm.seeds, arm.runs.iterrows(), strict=True):
            name = run_name(arm.name, seed)
            if run.get(Tag.RUN_NAME.column) != name:
                tried_twice(partial(client.update_run, run["run_id"], name=name))
            if run[Tag.COLOR.column] != arm.color:
                tried_twice(partial(client.set_tag, run["run_id"], Tag.COLOR, arm.color))


def publish_views(runs: pd.DataFrame, answer: str | None = None) -> list[View]:
    """Makes or renews the views that show these runs, and the description of their experiments.

    In each experiment: the runs of the study (or other sweep), the same as means over the seeds, and all runs there
    are. The keys are `study-NAME` (or `sweep`), the same with `-mean`, and `all`.

    Args:
        runs: Finished runs, of one call of a study or of another sweep, or a single one.
        answer: What they come to, for the description; None for a single run.

    Returns:
        The view to look at first, of each experiment.
    """
    client = mlflow.MlflowClient()
    first_views = []
    for experiment_id, group in runs.groupby("experiment_id", sort=False):
        experiment = client.get_experiment(experiment_id)
        tags = [size_tag(px) for px in sorted({px for _, run in group.iterrows() for px in size_verdicts(run)})]
        ways = sorted(ways_in(list(map(str, group))))
        every = f"attributes.status = 'FINISHED' and {Tag.HEAD.column} != ''"
        prepared = {ALL_KEY: ("all runs", comparison_view(every, tags, ways, [Param.HEAD]))}
        key, sweep, study = ALL_KEY, common_value(group, "sweep"), common_value(group, Tag.STUDY.column)
        if sweep is not None:
            key, name = (STUDY_KEY + study, study) if study else (SWEEP_KEY, "latest sweep")
            told_by = (*arm_params(group), *varied_params(group))
            compared = "heads" if told_by == (Param.HEAD,) else "arms"
            view = partial(comparison_view, sweep_filter(sweep), tags, ways, told_by)
            prepared[key] = (f"{name}: {compared} compared", view())
            prepared[key + MEAN] = (f"{name}: mean over seeds", view(average=True))
        for view_key, (title, state) in prepared.items():
            tried_twice(partial(client.set_experiment_tag, experiment_id, *view_tag(view_key, title, state)))
        first_views.append(View(experiment_id, experiment.name, key, prepared[key][0]))
        if key == ALL_KEY and DESCRIPTION_END in experiment.tags.get(Tag.DESCRIPTION, ""):
            continue  # A single run does not take a study's place.
        text = _description(
            experiment_id, key, prepared[key][0], common_value(group, Param.QUESTION.column), answer, experiment.tags
        )
        tried_twice(partial(client.set_experiment_tag, experiment_id, Tag.DESCRIPTION, text))
    return first_views


def prepared_views() -> list[View]:
    """The view to look at first, of each study and experiment in the store, the newest first."""
    found = []
    for experiment in mlflow.MlflowClient().search_experiments():
        names = view_names(experiment.tags)
        sweeps = [key for key in names if key.startswith((STUDY_KEY, SWEEP_KEY)) and not key.endswith(MEAN)]
        for key in sweeps or [key for key in names if key == ALL_KEY]:
            name, updated = names[key]
            found.append((updated, View(experiment.experiment_id, experiment.name, key, name)))
    return [view for _, view in sorted(found, key=lambda pair: pair[0], reverse=True)]


def _description(
    experiment_id: str, key: str, name: str, question: str | None, answer: str | None, tags: dict[str, str]
) -> str:
    """An experiment's description: question and views in its first line, which is all that MLflow shows of it at first.

    Args:
        experiment_id: Of the experiment.
        key: Of the view to look at first.
        name: Of that view.
        question: What the runs are to answer.
        answer: What they answer; None where nothing was compared.
        tags: The experiment's tags before.
    """

    def links(view_key: str, text: str) -> str:
        shown = [(text, view_key, False), ("mean over seeds", view_key + MEAN, False), ("table", view_key, True)]
        if view_key == ALL_KEY:
            del shown[1]
        return " · ".join(f"[{word}]({view_link('', experiment_id, at, table)})" for word, at, table in shown)

    names = {at: title for at, (title, _) in view_names(tags).items() if at.startswith(STUDY_KEY)}
    others = sorted(at for at in names if at != key and not at.endswith(MEAN))
    reports = {
        run.data.tags[Tag.REPORT]: artifact_link("", experiment_id, run.info.run_id, File.REPORT_PAGE)
        for run in mlflow.MlflowClient().search_runs([experiment_id], f"tags.{Tag.REPORT} != ''")
    }
    report = reports.get(key.removeprefix(STUDY_KEY))
    parts = [f"**{question or QUESTION}** {links(key, name)}" + (f" · [report]({report})" if report else "")]
    parts += [answer] if answer else []
    parts += [links(other, names[other]) for other in others]
    parts += [links(ALL_KEY, "all runs")] if key != ALL_KEY else []
    parts.append("\n".join(f"- {line}" for line in LEGEND))
    _, _, kept = tags.get(Tag.DESCRIPTION, "").partition(f"\n{DESCRIPTION_END}\n")
    return "\n\n".join(parts) + f"\n\n{DESCRIPTION_END}\n{kept}"
