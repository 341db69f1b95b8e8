"""One study, read back from MLflow, as a table and a figure."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig
from rich.table import Table

from pipeline import cli
from pipeline.config import PROJECT_ROOT, Comparison, absolute, to_typed
from pipeline.errors import ConfigError, UserError, suggestion
from pipeline.tracking import store, study, views
from pipeline.tracking.store import Tracking
from pipeline.verdicts import summarize

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

MODES = {"resize": "image resized", "canvas": "image at its scale on a canvas, or its centre"}
"""Ways of making an image of another size, and how a chart names them."""


class PrintStudyTable(Callback):
    """Prints the comparison of a sweep when the last of its runs has ended. Hydra calls it."""

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        settings = Tracking(**{key: config.tracking[key] for key in config.tracking})
        output_path = absolute(config.output_dir)
        store.open_store(settings, output_path)
        runs = _finished(study.runs_of_sweep(cli.sweep_name_of(config.hydra.sweep.dir)))
        if not runs.empty:
            show(runs, settings, output_path)


def show(runs: pd.DataFrame, settings: Tracking, output_path: Path) -> None:
    """Prints tables, draws figures, prepares the dashboard's views, and prints the links that open them.

    Args:
        runs: Finished runs of one sweep, as `mlflow.search_runs` gives them.
        settings: Where they are recorded.
        output_path: Where the figures go.
    """
    console = cli.console()
    for names, group in runs.groupby(["tags.backbone", "tags.dataset", "params.image_size"], sort=False):
        backbone, dataset, size = names
        title = f"{backbone} on {dataset} at {size} px"
        console.print()
        console.print(study_table(group, title))
        picture = output_path / "studies" / group["tags.sweep"].iloc[0] / f"{backbone}-{dataset}-{size}.png"
        picture = picture.with_name(picture.name.replace("/", "-"))
        picture.parent.mkdir(parents=True, exist_ok=True)
        size_figure(group, study.size_histories(group["run_id"]), title).savefig(picture)
        console.print(f"Accuracy by image size: {picture}", soft_wrap=True)
    console.print(how_to_look(study.publish_views(runs), settings, output_path), soft_wrap=True)


def show_run(run_id: str, settings: Tracking, output_path: Path) -> None:
    """Prepares the dashboard's view of all runs of an experiment, and prints the links of it and of one run's page."""
    run = study.run(run_id)
    page = views.run_link(store.server_address(settings), run["experiment_id"].iloc[0], run_id)
    console = cli.console()
    console.print(how_to_look(study.publish_views(run), settings, output_path), soft_wrap=True)
    console.print(f"This run: {page}", soft_wrap=True)


def _finished(runs: pd.DataFrame) -> pd.DataFrame:
    return runs[runs["status"] == "FINISHED"] if len(runs) else runs


def arms(runs: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """The runs that differ in nothing but their seed, under the arm's or head's name and what else tells them apart."""
    labelled = []
    for head, of_head in runs.groupby(study.arm_or_head(runs), sort=False):
        varied = [f"params.{name}" for name in study.varied_params(of_head)]
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
        verdicts = study.size_verdicts(arm.iloc[0])
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
        histories: Of each run id, what `tracking.study.size_histories` gives.
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


def how_to_look(prepared: list[study.View], settings: Tracking, output_path: Path) -> str:
    """What to type, and which address then opens each view."""
    address = store.server_address(settings)
    links = [f"{view.experiment}, {view.name}\n  {view.link(address)}" for view in prepared]
    if settings.uri is not None:
        return "\n".join(["Compare in the dashboard:", *links])
    # The Makefile serves the clone's own outputs/ only.
    served = output_path == PROJECT_ROOT / "outputs" and (PROJECT_ROOT / "Makefile").is_file()
    command = "make dashboard" if served else f"python -m pipeline.dashboard output_dir={shlex.quote(str(output_path))}"
    return "\n".join([f"Compare in the dashboard: {command}, then open", *links])


@cli.command("compare")
def main(composed: DictConfig) -> None:
    """Composes, finds the runs, and shows them."""
    config = to_typed(composed, Comparison)
    store.open_store(config.tracking, config.output_path, create=False)
    runs = study.newest_runs(config.study) if config.sweep is None else study.runs_of_sweep(config.sweep)
    if runs.empty:
        known = study.studies()
        raise ConfigError(
            "study" if config.sweep is None else "sweep",
            config.study if config.sweep is None else config.sweep,
            "no run was recorded under this name",
            f"Recorded studies: {', '.join(known) or 'none'}. {suggestion(config.study, known)}".strip(),
        )
    finished = _finished(runs)
    if finished.empty:
        raise UserError(f"study={config.study}: none of its {len(runs)} runs has finished yet.")
    show(finished, config.tracking, config.output_path)


if __name__ == "__main__":
    main()
