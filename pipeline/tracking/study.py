"""What a study's runs left in MLflow: read back, and shown by views that one link opens."""

from __future__ import annotations

import re
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.answers import pack
from pipeline.heads import Verdict
from pipeline.size_transfer import WAY_RULES
from pipeline.tracking import views
from pipeline.verdicts import LEGEND

if TYPE_CHECKING:
    import pandas as pd
    from mlflow import MlflowClient
    from mlflow.entities import Run

QUESTION = (
    "What should replace the Dense layers after a fully convolutional network, and will it still work when the image "
    "size changes?"
)
DESCRIPTION_END = "* * *"
"""Closes what this program writes into an experiment's description; what a user writes below it stays."""
STUDY_KEY, SWEEP_KEY, ALL_KEY, MEAN = "study-", "sweep", "all", "-mean"
"""Keys of the views: the first with a study's name, and the first two also with `-mean` behind."""
INDIFFERENT = (
    *("tracking.", "launch.", "statistics.", "output_dir", "question", "rerun", "training.checkpoint_seconds"),
    *("dataset.data_dir", "dataset.path"),  # What lies there counts by its digest.
)
"""Settings, or beginnings of their names, that change no run's result: they tell neither runs nor arms apart."""
SWEEP_TAGS = "sweep."
"""With the name of a sweep behind: tag of each run that belongs to it, trained by it or before; see `sweep_tag`."""
PRUNED_TAG = "pruned"
"""Tag of a run whose training ended early, because it fell behind others; its value says when and why."""
REPORT_TAG = "report"
"""Tag of a run that is the report on a study, whose name is its value."""


def size_tag(height: int) -> str:
    """Name of the tag that holds the verdict at a height in pixels; sorts by size."""
    return f"size.{height:03d}px"


def condition(mode: str, height: int, way: str = "") -> str:
    """`resize_035px`: images of a height made in a mode; `resize_035px.global_pool`: the model run in a way."""
    return f"{mode}_{height:03d}px" + (f".{way}" if way else "")


def size_verdicts(run: pd.Series) -> dict[int, Verdict]:
    """The verdict at each probed height in pixels, ascending, from the tags of a run."""
    found = {}
    for column, value in run.items():
        match = re.fullmatch(r"tags\.size\.(\d+)px", str(column))
        if match and isinstance(value, str):
            found[int(match.group(1))] = Verdict(value)
    return dict(sorted(found.items()))


def sweep_tag(sweep: str) -> tuple[str, str]:
    """The tag, name and value, of a run that belongs to a sweep from now on.

    A run that is asked for again belongs to each of the sweeps that asked for it, whose comparisons all need it.
    """
    return _sweep_tag_name(sweep), f"{time.time():.3f}"


def _sweep_tag_name(sweep: str) -> str:
    return SWEEP_TAGS + re.sub(r"[^\w. -]", "_", sweep)  # What MLflow allows, and a query can name.


def sweeps(run: Run) -> dict[str, str]:
    """The names of the sweeps that a run belongs to, and since when."""
    return {name.removeprefix(SWEEP_TAGS): at for name, at in run.data.tags.items() if name.startswith(SWEEP_TAGS)}


def of_sweep(sweep: str) -> str:
    """MLflow's filter for the runs of a sweep."""
    return f"tags.`{_sweep_tag_name(sweep)}` != ''"


def runs_of_sweep(sweep: str) -> pd.DataFrame:
    """All runs of one call of a study, a row each, as `mlflow.search_runs` gives them, with its name as `sweep`."""
    return _search(of_sweep(sweep)).assign(sweep=sweep)


def whole_trainings(sweep: str, dataset: str, epochs: int) -> list[list[float]]:
    """Validation accuracies, epoch by epoch, of the finished runs of a sweep so far that were not pruned.

    Args:
        sweep: The tag of its runs.
        dataset: TFDS name; runs on others are left out.
        epochs: The same for those that were to have another number of epochs.
    """
    import mlflow

    runs = runs_of_sweep(sweep)
    if runs.empty:
        return []
    whole = (runs["status"] == "FINISHED") & (runs["tags.dataset"] == dataset)
    whole &= runs["params.training.epochs"] == str(epochs)
    if f"tags.{PRUNED_TAG}" in runs:
        whole &= runs[f"tags.{PRUNED_TAG}"].isna()
    client = mlflow.MlflowClient()
    return [list(validation_accuracies(client, run_id).values()) for run_id in runs["run_id"][whole]]


def validation_accuracies(client: MlflowClient, run_id: str) -> dict[int, float]:
    """Validation accuracy after each epoch, counted from 1; of one that a killed run did again, the later one."""
    points = client.get_metric_history(run_id, "val/accuracy")
    return {point.step: point.value for point in sorted(points, key=lambda point: (point.step, point.timestamp))}


def newest_runs(study: str) -> pd.DataFrame:
    """The runs of the newest call of a study, in each experiment that has any, with the call's name as `sweep`."""
    import pandas as pd

    runs = _search(f"tags.study = '{study}'")
    prefix = f"tags.{SWEEP_TAGS}"
    since = runs[[column for column in runs if str(column).startswith(prefix)]].astype(float).dropna(how="all")
    found = [runs.iloc[:0].assign(sweep="")]
    for _, calls in since.groupby(runs["experiment_id"]):
        newest = calls.max().idxmax()
        found.append(runs.loc[calls.index[calls[newest].notna()]].assign(sweep=newest.removeprefix(prefix)))
    return pd.concat(found) if len(found) > 1 else found[0]


def run(run_id: str) -> pd.DataFrame:
    """One run, as a row."""
    return _search(f"attributes.run_id = '{run_id}'")


def trained(study: str | None = None) -> pd.DataFrame:
    """All trained runs, or those of one study, the oldest first; reports are not among them."""
    return _search("tags.head != ''" + (f" and tags.study = '{study}'" if study else ""))


def entities(runs: pd.DataFrame) -> list[Run]:
    """The same runs as MLflow's entities."""
    import mlflow

    return [mlflow.MlflowClient().get_run(run_id) for run_id in runs.get("run_id", [])]


def studies() -> list[str]:
    """Names of all studies in the store, sorted."""
    runs = _search("tags.study != ''")
    return sorted(runs["tags.study"].unique()) if len(runs) else []


def _search(condition: str) -> pd.DataFrame:
    import mlflow

    return mlflow.search_runs(
        search_all_experiments=True, filter_string=condition, order_by=["attributes.start_time ASC"]
    )


def with_answers(runs: pd.DataFrame) -> pd.DataFrame:
    """The same table with a column `answers.CONDITION` for each condition, as `pipeline.analysis` takes it.

    Args:
        runs: Finished runs, as `mlflow.search_runs` gives them, each with its recorded predictions.
    """
    import pandas as pd

    answers = pd.DataFrame([_answers(run_id) for run_id in runs["run_id"]], index=runs.index)
    return pd.concat([runs, answers.where(answers.notna(), None)], axis=1)


def _answers(run_id: str) -> dict[str, bytes]:
    found = {}
    table = _parquet(run_id, "predictions.parquet")
    logits = [column for column in table if str(column).startswith("logit_")]
    found["answers.test"] = pack(table[logits].to_numpy().argmax(axis=1) == table["label"].to_numpy())
    table = _parquet(run_id, "size_predictions.parquet")
    for column in table:
        if re.fullmatch(r"(resize|canvas)_\d+px(\.\w+)?", str(column)):
            found[f"answers.{column}"] = pack((table[column] == table["label"]).to_numpy())
    return found


def _parquet(run_id: str, name: str) -> pd.DataFrame:
    import mlflow
    import pandas as pd

    with tempfile.TemporaryDirectory() as directory:
        return pd.read_parquet(mlflow.MlflowClient().download_artifacts(run_id, name, directory))


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
        return views.view_link(server, self.experiment_id, self.key, table)


def record_report(experiment_id: str, runs: pd.DataFrame, text: str, directory: Path) -> None:
    """Records a study's report as a run of its own, one for each study and experiment, renewed by later calls.

    Args:
        experiment_id: Where.
        runs: That were compared in this experiment.
        text: The report in Markdown, for the run's description.
        directory: Whose files are recorded: the report as a web page and as Markdown.
    """
    import mlflow

    client = mlflow.MlflowClient()
    name = common(runs, "tags.study") or "sweep"
    known = client.search_runs([experiment_id], f"tags.{REPORT_TAG} = '{name}'", max_results=1)
    run = known[0] if known else client.create_run(experiment_id, tags={REPORT_TAG: name}, run_name=f"report on {name}")
    client.log_artifacts(run.info.run_id, str(directory))
    client.set_tag(run.info.run_id, views.DESCRIPTION_TAG, views.shortened(text, "report.md"))
    client.set_terminated(run.info.run_id)


def publish_views(runs: pd.DataFrame) -> list[View]:
    """Makes or renews the views that show these runs, and the description of their experiments.

    In each experiment: the runs of the study (or other sweep), the same as means over the seeds, and all runs there
    are. The keys are `study-NAME` (or `sweep`), the same with `-mean`, and `all`.

    Args:
        runs: Finished runs, of one call of a study or of another sweep, or a single one.

    Returns:
        The view to look at first, of each experiment.
    """
    import mlflow

    client = mlflow.MlflowClient()
    first_views = []
    for experiment_id, group in runs.groupby("experiment_id", sort=False):
        experiment = client.get_experiment(experiment_id)
        tags = [size_tag(px) for px in sorted({px for _, run in group.iterrows() for px in size_verdicts(run)})]
        ways = [way for way in WAY_RULES if f"metrics.{views.way_metric(way, 'resize')}" in group]
        every = "attributes.status = 'FINISHED' and tags.head != ''"
        prepared = {ALL_KEY: ("all runs", views.comparison(every, tags, ways))}
        key, sweep, study = ALL_KEY, common(group, "sweep"), common(group, "tags.study")
        if sweep is not None:
            key, name = (STUDY_KEY + study, study) if study else (SWEEP_KEY, "latest sweep")
            averaged = (*_arm_params(group), *varied_params(group))
            prepared[key] = (f"{name}: heads compared", views.comparison(of_sweep(sweep), tags, ways))
            prepared[key + MEAN] = (f"{name}: mean over seeds", views.comparison(of_sweep(sweep), tags, ways, averaged))
        for of_key, (title, state) in prepared.items():
            client.set_experiment_tag(experiment_id, *views.view_tag(of_key, title, state))
        first_views.append(View(experiment_id, experiment.name, key, prepared[key][0]))
        if key == ALL_KEY and DESCRIPTION_END in experiment.tags.get(views.DESCRIPTION_TAG, ""):
            continue  # A single run does not take a study's place.
        text = _description(experiment_id, key, prepared[key][0], common(group, "params.question"), experiment.tags)
        client.set_experiment_tag(experiment_id, views.DESCRIPTION_TAG, text)
    return first_views


def prepared_views() -> list[View]:
    """The view to look at first, of each study and experiment in the store, the newest first."""
    import mlflow

    found = []
    for experiment in mlflow.MlflowClient().search_experiments():
        names = views.view_names(experiment.tags)
        sweeps = [key for key in names if key.startswith((STUDY_KEY, SWEEP_KEY)) and not key.endswith(MEAN)]
        for key in sweeps or [key for key in names if key == ALL_KEY]:
            name, updated = names[key]
            found.append((updated, View(experiment.experiment_id, experiment.name, key, name)))
    return [view for _, view in sorted(found, key=lambda pair: pair[0], reverse=True)]


def common(runs: pd.DataFrame, column: str) -> str | None:
    """The value that all runs have in a column of text; None if there is no such value."""
    values = set(runs[column]) if column in runs else set()
    (value,) = values if len(values) == 1 else (None,)
    return value if isinstance(value, str) and value != "None" else None  # As MLflow writes a null.


def arm_or_head(runs: pd.DataFrame) -> pd.Series:
    """The name of each run's arm, or of its head where the study has no arms."""
    heads = runs["tags.head"]
    return runs["params.arm"].where(runs["params.arm"] != "None", heads) if "params.arm" in runs else heads


def _arm_params(runs: pd.DataFrame) -> list[str]:
    """Which of the params arm and head it takes to tell the arms of a study apart."""
    named = runs["params.arm"] != "None" if "params.arm" in runs else runs["tags.head"].isna()
    several = runs.groupby(arm_or_head(runs))["tags.head"].nunique().max() > 1
    return ["arm"] * bool(named.any()) + ["head"] * bool(several or not named.all())


def settings(runs: pd.DataFrame) -> list[str]:
    """Names of the params that can change a run's result, other than the seed."""
    names = [str(column).removeprefix("params.") for column in runs if str(column).startswith("params.")]
    return [name for name in names if name != "seed" and not name.startswith(INDIFFERENT)]


def varied_params(runs: pd.DataFrame) -> list[str]:
    """Params other than the seed that tell runs of one arm and head apart; settings of the head itself count."""
    alike = [of_head for _, of_head in runs.groupby([arm_or_head(runs).rename("arm"), "tags.head"])]
    return [
        name for name in settings(runs) if any(of_head[f"params.{name}"].nunique(dropna=False) > 1 for of_head in alike)
    ]


def _description(experiment_id: str, key: str, name: str, question: str | None, tags: dict[str, str]) -> str:
    """An experiment's description: question and views in its first line, which is all that MLflow shows of it at first.

    Args:
        experiment_id: Of the experiment.
        key: Of the view to look at first.
        name: Of that view.
        question: What the runs are to answer.
        tags: The experiment's tags before.
    """

    import mlflow

    def links(of_key: str, text: str) -> str:
        ways = [(text, of_key, False), ("mean over seeds", of_key + MEAN, False), ("table", of_key, True)]
        if of_key == ALL_KEY:
            del ways[1]
        return " · ".join(f"[{word}]({views.view_link('', experiment_id, at, table)})" for word, at, table in ways)

    names = {at: title for at, (title, _) in views.view_names(tags).items() if at.startswith(STUDY_KEY)}
    others = sorted(at for at in names if at != key and not at.endswith(MEAN))
    reports = {
        run.data.tags[REPORT_TAG]: views.artifact_link("", experiment_id, run.info.run_id, "report.html")
        for run in mlflow.MlflowClient().search_runs([experiment_id], f"tags.{REPORT_TAG} != ''")
    }
    report = reports.get(key.removeprefix(STUDY_KEY))
    parts = [f"**{question or QUESTION}** {links(key, name)}" + (f" · [report]({report})" if report else "")]
    parts += [links(other, names[other]) for other in others]
    parts += [links(ALL_KEY, "all runs")] if key != ALL_KEY else []
    parts.append("\n".join(f"- {line}" for line in LEGEND))
    _, _, kept = tags.get(views.DESCRIPTION_TAG, "").partition(f"\n{DESCRIPTION_END}\n")
    return "\n\n".join(parts) + f"\n\n{DESCRIPTION_END}\n{kept}"
