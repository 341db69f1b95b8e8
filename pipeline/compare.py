"""One study, read back from MLflow, as a table and a figure."""

from __future__ import annotations

import itertools
import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig
from rich.table import Table

from pipeline import cli, tracking
from pipeline.config import PROJECT_ROOT, absolute
from pipeline.heads import Verdict

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

MODES = {"resize": "image resized", "canvas": "image at its scale on a canvas, or its centre"}
"""Ways of making an image of another size, and how a chart names them."""


class PrintStudyTable(Callback):
    """Prints the table of a study when the last of its runs has ended. Hydra calls it."""

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        settings = tracking.Tracking(**{key: config.tracking[key] for key in config.tracking})
        output_path = absolute(config.output_dir)
        sweep = cli.sweep_name_of(config.hydra.sweep.dir)
        runs = tracking.study_runs(settings, output_path, sweep)
        finished = runs[runs["status"] == "FINISHED"] if len(runs) else runs
        console = cli.console()
        if finished.empty:
            return
        for names, group in finished.groupby(["tags.backbone", "tags.dataset", "params.image_size"], sort=False):
            backbone, dataset, size = names
            title = f"{backbone} on {dataset} at {size} px"
            console.print()
            console.print(study_table(group, title))
            picture = output_path / "studies" / sweep / f"{backbone}-{dataset}-{size}.png".replace("/", "-")
            picture.parent.mkdir(parents=True, exist_ok=True)
            size_figure(group, tracking.size_histories(group["run_id"]), title).savefig(picture)
            console.print(f"Accuracy by image size: {picture}", soft_wrap=True)
        console.print(_how_to_look(settings, output_path), soft_wrap=True)


def arms(runs: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """The runs that differ in nothing but their seed, under the head's name and whatever else tells them apart."""
    labelled = []
    for head, of_head in runs.groupby("tags.head", sort=False):
        settings = [column for column in of_head if str(column).startswith("params.") and column != "params.seed"]
        varied = [column for column in settings if of_head[column].nunique(dropna=False) > 1]
        if not varied:
            labelled.append((str(head), of_head))
            continue
        for values, arm in of_head.groupby(varied, sort=False, dropna=False):
            differences = [
                f"{column.removeprefix('params.')}={value}" for column, value in zip(varied, values, strict=True)
            ]
            labelled.append((" ".join([str(head), *differences]), arm))
    return labelled


def study_table(runs: pd.DataFrame, title: str) -> Table:
    """One row an arm: accuracy over the seeds, parameters, and what happens at other image sizes.

    Args:
        runs: Finished runs of one dataset, image size and backbone, as `mlflow.search_runs` gives them.
        title: What the runs have in common.
    """
    native = int(runs["params.image_size"].iloc[0].split("×")[0])
    table = Table(title=title)
    for heading in ("head", "seeds", "test accuracy", "parameters", "in the head"):
        table.add_column(heading, justify="left" if heading == "head" else "right")
    table.add_column(f"below {native} px")
    table.add_column(f"above {native} px")
    for label, arm in arms(runs):
        accuracies = arm["metrics.test/accuracy"]
        spread = f" ± {accuracies.std(ddof=1):.4f}" if len(accuracies) > 1 else ""
        verdicts = size_verdicts(arm.iloc[0])
        table.add_row(
            label,
            str(len(arm)),
            f"{accuracies.mean():.4f}{spread}",
            f"{arm['metrics.params/total'].iloc[0]:,.0f}",
            f"{arm['metrics.params/head'].iloc[0]:,.0f}",
            summarize({px: verdict for px, verdict in verdicts.items() if px < native}),
            summarize({px: verdict for px, verdict in verdicts.items() if px > native}),
        )
    table.caption = "mean ± standard deviation over the seeds; differences are not tested"
    return table


def size_figure(runs: pd.DataFrame, histories: dict[str, dict[str, dict[int, float]]], title: str) -> Figure:
    """Test accuracy by image size, a line an arm, for both ways of making an image of another size.

    Args:
        runs: As for `study_table`.
        histories: Of each run id, what `tracking.size_histories` gives.
        title: What the runs have in common.

    Returns:
        A figure whose lines are means over the seeds, with gaps where a head refuses; bars span the seeds.
    """
    import numpy as np
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4), layout="constrained", dpi=110)
    figure.suptitle(title)
    axes = figure.subplots(1, 2, sharey=True)
    for (mode, heading), axis in zip(MODES.items(), axes, strict=True):
        for index, (label, arm) in enumerate(arms(runs)):
            curves = [histories[run_id][f"size/{mode}/accuracy"] for run_id in arm["run_id"]]
            heights = np.array(sorted(set.intersection(*(set(curve) for curve in curves))))
            values = np.array([[curve[px] for px in heights] for curve in curves])
            middle = values.mean(axis=0)
            axis.errorbar(
                heights,
                middle,
                yerr=[middle - values.min(axis=0), values.max(axis=0) - middle],
                color=arm["tags.mlflow.runColor"].iloc[0],
                # Heads that are one function at the training size would hide each other.
                marker="osD^v"[index % 5],
                linestyle=("-", "--", ":")[index % 3],
                markersize=8 - 2 * (index % 3),
                capsize=3,
                label=label,
            )
        native = int(runs["params.image_size"].iloc[0].split("×")[0])
        axis.axvline(native, color="0.8", zorder=0)
        axis.set(title=heading, xlabel="image height / px", ylim=(0, 1))
        axis.set_xticks(sorted({px for history in histories.values() for px in history[f"size/{mode}/accuracy"]}))
    axes[0].set_ylabel("test accuracy")
    axes[0].legend(loc="lower right")
    return figure


def size_verdicts(run: pd.Series) -> dict[int, Verdict]:
    """The verdict at each probed height in pixels, ascending, from the tags of a run."""
    found = {}
    for column, value in run.items():
        match = re.fullmatch(r"tags\.size\.(\d+)px", str(column))
        if match and isinstance(value, str):
            found[int(match.group(1))] = Verdict(value)
    return dict(sorted(found.items()))


def summarize(verdicts: dict[int, Verdict]) -> str:
    """`refuses (4 px), crops (10–12 px)`: neighbours with one verdict together, a lone verdict without sizes."""
    if not verdicts:
        return "not probed"
    groups = [
        (verdict, [px for px, _ in group])
        for verdict, group in itertools.groupby(verdicts.items(), key=lambda item: item[1])
    ]
    if len(groups) == 1:
        return groups[0][0].value
    return ", ".join(
        f"{verdict.value} ({sizes[0]}–{sizes[-1]} px)" if len(sizes) > 1 else f"{verdict.value} ({sizes[0]} px)"
        for verdict, sizes in groups
    )


def _how_to_look(settings: tracking.Tracking, output_path: Path) -> str:
    uri = tracking.store_uri(settings, output_path)
    if settings.uri is not None:
        return f"Recorded in {uri}."
    # The Makefile serves the clone's own outputs/ only.
    served = output_path == PROJECT_ROOT / "outputs" and (PROJECT_ROOT / "Makefile").is_file()
    return (
        f"Dashboard: {'make dashboard, or ' if served else ''}MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false mlflow server "
        f"--workers 1 --host 127.0.0.1 --backend-store-uri {shlex.quote(uri)}\nthen open http://127.0.0.1:5000"
    )
